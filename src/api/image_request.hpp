// The body of POST /templates/images.
#pragma once

#include <cube/core.hpp>
#include <cube/template.hpp>
#include <string>
#include <string_view>

namespace cube::api {

/// `image_directory` plus the body's bare file name becomes the build's path.
Result<templates::BuildRequest> parse_image_request(std::string_view body,
                                                    const std::string& image_directory);

}  // namespace cube::api
