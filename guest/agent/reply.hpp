// Plain HTTP answers of the agent.
#pragma once

#include <asio/awaitable.hpp>
#include <cube/http.hpp>
#include <string>

namespace cube::agent {

/// {"code":404,"message":"…"}
asio::awaitable<void> reply_error(http::Exchange& exchange, int status, std::string message);
asio::awaitable<void> reply_json(http::Exchange& exchange, int status, std::string json);
asio::awaitable<void> reply_empty(http::Exchange& exchange, int status);

}  // namespace cube::agent
