// The services of the agent. Each adds its methods to the router, or serves plain HTTP, on the agent's loop.
#pragma once

#include <asio/any_io_executor.hpp>
#include <cube/http.hpp>
#include <memory>

#include "rpc.hpp"
#include "settings.hpp"

namespace cube::agent {

/// process.Process: programs run for users (List, Start, Connect, Update, StreamInput, SendInput, SendSignal,
/// CloseStdin). The returned object owns every process it started, and notes their beginnings and ends.
class ProcessService;
class Children;
class Journal;
std::shared_ptr<ProcessService> add_process_service(Router& router, asio::any_io_executor loop,
                                                    Children& children, const Settings& settings,
                                                    Journal& journal);

/// filesystem.Filesystem: Stat, MakeDir, Move, ListDir, Remove, WatchDir, CreateWatcher, GetWatcherEvents,
/// RemoveWatcher.
class FilesystemService;
std::shared_ptr<FilesystemService> add_filesystem_service(Router& router, asio::any_io_executor loop,
                                                          const Settings& settings);

/// GET and POST /files. The caller has checked the access token or the signature.
asio::awaitable<void> serve_files(http::Exchange& exchange, const Settings& settings);

/// POST /files/compose. The caller has checked the access token.
asio::awaitable<void> serve_compose(http::Exchange& exchange, const Settings& settings);

/// Whether a /files request carries a valid signature for the settings' access token (v1_…, not expired).
Result<void> check_files_signature(const http::RequestHead& head, const Settings& settings);

}  // namespace cube::agent
