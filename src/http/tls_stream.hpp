// A stream that finds out by its first byte whether it is TLS.
#pragma once

#include <chrono>
#include <cube/core.hpp>
#include <memory>
#include <string>

#include "http/tls.hpp"
#include "http/tls_engine.hpp"

namespace cube::http {

/// The first read decides, and tells `opening`; writes wait for that.
std::unique_ptr<Stream> make_tls_stream(const asio::any_io_executor& executor, std::unique_ptr<Stream> raw,
                                        std::shared_ptr<SSL_CTX> context, std::shared_ptr<Opening> opening,
                                        std::chrono::seconds timeout, std::string remote);

}  // namespace cube::http
