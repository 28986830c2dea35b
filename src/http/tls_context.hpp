// TlsContext: a certificate, its key and the rules of the connections made with them.
#pragma once

#include <openssl/ssl.h>

#include <cube/core.hpp>
#include <memory>
#include <string>

namespace cube::http {

struct FreeContext {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using ContextPointer = std::unique_ptr<SSL_CTX, FreeContext>;

/// TLS 1.2 and 1.3, ephemeral keys and authenticated ciphers only, ALPN "h2" before "http/1.1".
Result<ContextPointer> make_tls_context(const std::string& certificate_file, const std::string& key_file);

/// "2027-01-02T03:04:05Z"
std::string certificate_end(SSL_CTX* context);

}  // namespace cube::http
