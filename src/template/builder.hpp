// One template build: copy the image, boot it, wait until it is ready, snapshot it.
#pragma once

#include <asio/awaitable.hpp>
#include <cube/template.hpp>

namespace cube::templates {

/// Leaves a snapshot in `settings.directory`/`id`, or nothing. The template's shape.
asio::awaitable<Result<snapshot::Shape>> build_snapshot(vmm::Executors executors, Settings settings,
                                                        std::string id, BuildRequest request,
                                                        std::function<void(std::string_view)> progress);

}  // namespace cube::templates
