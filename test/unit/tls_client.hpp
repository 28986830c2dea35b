// Clients that share no code with the server: OpenSSL on a blocking socket, and nghttp2 over that.
#pragma once

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <cube/core.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "event_loop.hpp"

namespace cube::test {

inline Fd connect_socket(std::uint16_t port) {
  std::signal(SIGPIPE, SIG_IGN);  // a test writes to a server that has gone
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int at_once = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
  const timeval patience{20, 0};  // nothing hangs
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    throw TestError("cannot connect");
  return socket;
}

/// Sends `text` on a plain connection and reads to its end.
inline std::string talk_plainly(std::uint16_t port, const std::string& text) {
  const Fd socket = connect_socket(port);
  if (::send(socket.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    throw TestError("cannot send");
  std::string received;
  char buffer[4096];
  for (;;) {
    const ssize_t count = ::recv(socket.get(), buffer, sizeof buffer, 0);
    if (count <= 0) return received;
    received.append(buffer, static_cast<std::size_t>(count));
  }
}

struct TlsOptions {
  std::string authority;  ///< file
  std::string alpn;       ///< on the wire: "\x02h2"
  std::string name = "localhost";
  int highest_version = 0;  ///< 0: the newest
};

class TlsClient {
 public:
  TlsClient(std::uint16_t port, const TlsOptions& options)
      : socket_(connect_socket(port)), context_(SSL_CTX_new(TLS_client_method()), SSL_CTX_free) {
    SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_max_proto_version(context_.get(), options.highest_version);
    SSL_CTX_set_security_level(context_.get(), 0);  // so that what the server refuses can be offered
    if (SSL_CTX_load_verify_locations(context_.get(), options.authority.c_str(), nullptr) != 1)
      throw TestError("cannot load the authority");
    ssl_.reset(SSL_new(context_.get()));
    SSL_set1_host(ssl_.get(), options.name.c_str());
    SSL_set_tlsext_host_name(ssl_.get(), options.name.c_str());
    SSL_set_alpn_protos(ssl_.get(), reinterpret_cast<const unsigned char*>(options.alpn.data()),
                        static_cast<unsigned>(options.alpn.size()));
    SSL_set_fd(ssl_.get(), socket_.get());
    connected_ = SSL_connect(ssl_.get()) == 1;
  }
  ~TlsClient() { close(); }

  bool connected() const { return connected_; }
  int version() const { return SSL_version(ssl_.get()); }

  std::string protocol() const {
    const unsigned char* name = nullptr;
    unsigned length = 0;
    SSL_get0_alpn_selected(ssl_.get(), &name, &length);
    return {reinterpret_cast<const char*>(name), length};
  }

  std::string serial_number() const {
    X509* certificate = SSL_get1_peer_certificate(ssl_.get());
    BIGNUM* number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr);
    char* text = BN_bn2hex(number);
    std::string result(text);
    OPENSSL_free(text);
    BN_free(number);
    X509_free(certificate);
    return result;
  }

  bool send(std::string_view text) {
    return text.empty() || SSL_write(ssl_.get(), text.data(), static_cast<int>(text.size())) > 0;
  }

  /// Some bytes, none at the end or after an error.
  std::string receive() {
    char buffer[16 << 10];
    const int count = SSL_read(ssl_.get(), buffer, sizeof buffer);
    return count > 0 ? std::string(buffer, static_cast<std::size_t>(count)) : "";
  }

  /// True if receive() would not wait.
  bool readable(int milliseconds) {
    if (SSL_pending(ssl_.get()) > 0) return true;
    pollfd poll{socket_.get(), POLLIN, 0};
    return ::poll(&poll, 1, milliseconds) == 1;
  }

  std::string read_to_end() {
    std::string text;
    for (;;) {
      const std::string piece = receive();
      if (piece.empty()) return text;
      text += piece;
    }
  }

  void close() { socket_.reset(); }
  SSL* ssl() { return ssl_.get(); }

 private:
  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  Fd socket_;
  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_;
  std::unique_ptr<SSL, Free> ssl_;
  bool connected_ = false;
};

using Fields = std::vector<std::pair<std::string, std::string>>;

/// What a client has of one response.
struct Http2Answer {
  int status = 0;
  std::vector<int> interim;
  std::map<std::string, std::string> headers;
  std::string body;
  std::size_t body_size = 0;
  bool whole = false;  ///< it ended in order
  bool closed = false;
  std::uint32_t error = 0;
};

class Http2Client {
 public:
  Http2Client(std::uint16_t port, const std::string& authority, bool takes_bodies = true)
      : tls(port, {authority, "\x02h2", "localhost", 0}), takes_bodies_(takes_bodies) {
    if (!tls.connected() || tls.protocol() != "h2") throw TestError("the server does not speak HTTP/2");
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, takes_bodies ? 0 : 1);
    nghttp2_option_set_max_send_header_block_length(option, 16 << 20);
    nghttp2_option_set_no_http_messaging(option, 1);  // what a server must refuse can be sent
    nghttp2_session_client_new2(&session, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, nullptr, 0);
    flush();
  }
  ~Http2Client() { nghttp2_session_del(session); }

  static Fields head(std::string method, std::string path, Fields more = {}) {
    Fields fields{{":method", std::move(method)},
                  {":scheme", "https"},
                  {":authority", "localhost"},
                  {":path", std::move(path)}};
    fields.insert(fields.end(), more.begin(), more.end());
    return fields;
  }

  /// Begins a request; its body, if any, is of `body_size` bytes of 'x'.
  std::int32_t start(const Fields& fields, std::size_t body_size = 0, bool has_body = false) {
    std::vector<nghttp2_nv> pairs;
    for (const auto& [name, value] : fields)
      pairs.push_back({reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                       reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(),
                       value.size(), NGHTTP2_NV_FLAG_NONE});
    nghttp2_data_provider provider{};
    provider.read_callback = next_body_bytes;
    const std::int32_t id = nghttp2_submit_request(session, nullptr, pairs.data(), pairs.size(),
                                                   has_body || body_size > 0 ? &provider : nullptr, nullptr);
    bodies[id] = body_size;
    answers[id];
    flush();
    return id;
  }

  Http2Answer ask(const Fields& fields, std::size_t body_size = 0) {
    const std::int32_t id = start(fields, body_size);
    pump([&] { return answers[id].closed; });
    return answers[id];
  }

  void reset(std::int32_t id) {
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    flush();
  }

  void flush() {
    std::string output;
    for (;;) {
      const std::uint8_t* bytes = nullptr;
      const ssize_t count = nghttp2_session_mem_send(session, &bytes);
      if (count <= 0) break;
      output.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
      if (output.size() < 64 << 10) continue;
      if (!tls.send(output)) ended = true;
      output.clear();
    }
    if (!tls.send(output)) ended = true;
  }

  /// Sends and receives until the condition holds. False if the connection ends or time does first.
  bool pump(const std::function<bool()>& condition,
            std::chrono::milliseconds time = std::chrono::seconds(20)) {
    const auto deadline = std::chrono::steady_clock::now() + time;
    while (!condition()) {
      if (ended || std::chrono::steady_clock::now() > deadline) return false;
      flush();
      if (!tls.readable(1)) continue;
      const std::string input = tls.receive();
      if (input.empty()) {
        ended = true;
      } else {
        received += input.size();
        const ssize_t taken = nghttp2_session_mem_recv(
            session, reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
        if (taken < 0) throw TestError("the server breaks the protocol");
      }
    }
    return true;
  }

  /// As much time as that passes, whatever comes.
  void pump_for(std::chrono::milliseconds time) {
    pump([] { return false; }, time);
  }

  TlsClient tls;
  nghttp2_session* session = nullptr;
  std::map<std::int32_t, Http2Answer> answers;
  std::map<std::int32_t, std::size_t> bodies;  ///< still to be sent
  std::size_t received = 0;
  bool ended = false;
  bool goaway = false;
  std::uint32_t goaway_error = 0;
  bool keeps_bodies = true;
  bool holds_requests_back = false;  ///< of request bodies nothing is sent

 private:
  static Http2Client& self(void* user) { return *static_cast<Http2Client*>(user); }

  static ssize_t next_body_bytes(nghttp2_session*, std::int32_t id, std::uint8_t* to, std::size_t capacity,
                                 std::uint32_t* flags, nghttp2_data_source*, void* user) {
    if (self(user).holds_requests_back) return NGHTTP2_ERR_DEFERRED;
    std::size_t& left = self(user).bodies[id];
    const std::size_t count = std::min(left, capacity);
    std::memset(to, 'x', count);
    left -= count;
    if (left == 0) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(count);
  }
  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                       void* user) {
    Http2Answer& answer = self(user).answers[frame->hd.stream_id];
    const std::string key(reinterpret_cast<const char*>(name), name_size);
    const std::string text(reinterpret_cast<const char*>(value), value_size);
    if (key == ":status" && text[0] == '1')
      answer.interim.push_back(std::stoi(text));
    else if (key == ":status")
      answer.status = std::stoi(text);
    answer.headers[key] = text;
    return 0;
  }
  static int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_GOAWAY) {
      self(user).goaway = true;
      self(user).goaway_error = frame->goaway.error_code;
    }
    const bool message = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
    if (message && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
      self(user).answers[frame->hd.stream_id].whole = true;
    return 0;
  }
  static int on_data(nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                     std::size_t size, void* user) {
    Http2Answer& answer = self(user).answers[id];
    answer.body_size += size;
    if (self(user).keeps_bodies) answer.body.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }
  static int on_close(nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
    Http2Answer& answer = self(user).answers[id];
    answer.closed = true;
    answer.error = error;
    return 0;
  }

  bool takes_bodies_;
};

}  // namespace cube::test
