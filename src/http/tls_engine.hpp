// TlsEngine: the server's side of one TLS connection, without I/O. Bytes of the network go in and come out as
// strings; when to read and write is TlsStream's business.
#pragma once

#include <openssl/ssl.h>

#include <asio/buffer.hpp>
#include <cube/core.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace cube::http {

class TlsEngine {
 public:
  explicit TlsEngine(SSL_CTX* context);
  TlsEngine(const TlsEngine&) = delete;  // OpenSSL keeps pointers into it
  TlsEngine& operator=(const TlsEngine&) = delete;

  enum class Status { ok, wants_input, ended, failed };

  Status handshake();

  /// Puts `count` plain bytes into the buffer.
  Status read(asio::mutable_buffer buffer, std::size_t& count);

  /// Takes all of the buffer; give it pieces.
  Status write(asio::const_buffer buffer);

  /// Says that nothing more follows.
  void shut_down();

  /// Bytes from the network. They must stay where they are until the engine wants input again.
  void feed(std::string_view bytes) { network_.input = bytes; }

  /// Bytes for the network.
  std::string take_output() { return std::exchange(network_.output, {}); }
  std::size_t output_size() const { return network_.output.size(); }

  /// What the client and we agreed on, after the handshake; empty without ALPN.
  std::string_view protocol() const;

  /// Why the last call failed.
  const std::string& failure() const { return failure_; }

 private:
  /// Where the BIO reads and writes.
  struct Network {
    std::string_view input;
    std::string output;
  };
  static const BIO_METHOD* bio_method();

  Status outcome(int result);

  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  Network network_;
  std::unique_ptr<SSL, Free> ssl_;
  std::string failure_;
};

/// OpenSSL's reasons for what just failed, and its error queue emptied.
std::string take_openssl_errors();

}  // namespace cube::http
