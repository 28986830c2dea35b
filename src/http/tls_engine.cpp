#include "http/tls_engine.hpp"

#include <openssl/bio.h>
#include <openssl/err.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace cube::http {

std::string take_openssl_errors() {
  std::string text;
  while (const unsigned long error = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(error);
    if (!text.empty()) text += "; ";
    text += reason != nullptr ? reason : "error " + std::to_string(error);
  }
  return text.empty() ? "unknown error" : text;
}

// OpenSSL's own memory BIO keeps the most it ever held. This one holds nothing of what comes in.
const BIO_METHOD* TlsEngine::bio_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "cube");
    if (made == nullptr) throw std::bad_alloc();
    BIO_meth_set_read(made, [](BIO* bio, char* to, int size) -> int {
      auto& input = static_cast<Network*>(BIO_get_data(bio))->input;
      BIO_clear_retry_flags(bio);
      if (input.empty() || size <= 0) {
        BIO_set_retry_read(bio);
        return -1;
      }
      const std::size_t count = std::min(input.size(), static_cast<std::size_t>(size));
      std::memcpy(to, input.data(), count);
      input.remove_prefix(count);
      return static_cast<int>(count);
    });
    BIO_meth_set_write(made, [](BIO* bio, const char* from, int size) -> int {
      BIO_clear_retry_flags(bio);
      static_cast<Network*>(BIO_get_data(bio))->output.append(from, static_cast<std::size_t>(size));
      return size;
    });
    BIO_meth_set_ctrl(made, [](BIO*, int command, long, void*) -> long { return command == BIO_CTRL_FLUSH; });
    return made;
  }();
  return method;
}

TlsEngine::TlsEngine(SSL_CTX* context) : ssl_(SSL_new(context)) {
  BIO* bio = ssl_ ? BIO_new(bio_method()) : nullptr;
  if (bio == nullptr) throw std::bad_alloc();
  BIO_set_data(bio, &network_);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  SSL_set_accept_state(ssl_.get());
}

TlsEngine::Status TlsEngine::outcome(int result) {
  if (result > 0) return Status::ok;
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ: return Status::wants_input;
    case SSL_ERROR_ZERO_RETURN: return Status::ended;
    default: failure_ = take_openssl_errors(); return Status::failed;
  }
}

TlsEngine::Status TlsEngine::handshake() {
  ERR_clear_error();
  return outcome(SSL_do_handshake(ssl_.get()));
}

TlsEngine::Status TlsEngine::read(asio::mutable_buffer buffer, std::size_t& count) {
  ERR_clear_error();
  return outcome(SSL_read_ex(ssl_.get(), buffer.data(), buffer.size(), &count));
}

TlsEngine::Status TlsEngine::write(asio::const_buffer buffer) {
  if (buffer.size() == 0) return Status::ok;
  ERR_clear_error();
  std::size_t count = 0;
  return outcome(SSL_write_ex(ssl_.get(), buffer.data(), buffer.size(), &count));
}

void TlsEngine::shut_down() {
  ERR_clear_error();
  SSL_shutdown(ssl_.get());
  ERR_clear_error();
}

std::string_view TlsEngine::protocol() const {
  const unsigned char* name = nullptr;
  unsigned length = 0;
  SSL_get0_alpn_selected(ssl_.get(), &name, &length);
  return {reinterpret_cast<const char*>(name), length};
}

}  // namespace cube::http
