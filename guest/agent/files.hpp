// The parts of /files: what downloads and uploads share.
#pragma once

#include <asio/awaitable.hpp>
#include <cube/http.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "settings.hpp"

namespace cube::agent {

/// The user of the request and, if it names one, the path.
struct FilesRequest {
  User user;
  std::optional<std::string> path;
};

/// Not written out in the coroutines themselves: g++ 12 cannot keep an initializer list in a frame.
http::ResponseHead files_json_head(int status);

/// {"code":404,"message":"…"}
std::string files_error_json(int status, const Error& error);

/// The members "path", "name" and "type" of what an upload made.
void write_uploaded(JsonWriter& json, std::string_view path);

asio::awaitable<void> files_respond(http::Exchange& exchange, http::ResponseHead head, std::string body);
asio::awaitable<void> files_respond_error(http::Exchange& exchange, Error error);

asio::awaitable<void> serve_download(http::Exchange& exchange, FilesRequest request);
asio::awaitable<void> serve_upload(http::Exchange& exchange, FilesRequest request, const Settings& settings);

}  // namespace cube::agent
