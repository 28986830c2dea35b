// http: HTTP/1.1 server and client over any Stream (llhttp parses); TLS and HTTP/2 for servers (OpenSSL,
// nghttp2).
//
// One connection carries many requests, for REST and for several sandboxes mixed, so routing is per request.
// Bodies stream both ways at the same time: one coroutine may read a request's body while another writes its
// response. Everything runs on the event loop; what a peer can make us hold is bounded by Limits.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/ip/tcp.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cube/core.hpp>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cube::http {

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

constexpr bool same_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (lower(a[i]) != lower(b[i])) return false;
  return true;
}

/// In the order they came; names compare without regard to case. They are places in one text: a message's
/// fields are a dozen short strings, made, copied and dropped with every request. Views of them hold until
/// fields are added.
class Headers {
  struct Place {
    std::size_t name, name_bytes, value, value_bytes;  ///< offsets in `text_`, and how many bytes
    bool checked;
  };

 public:
  using Field = std::pair<std::string_view, std::string_view>;  ///< name, value

  class Fields {
   public:
    class Iterator {
     public:
      using value_type = Field;
      using difference_type = std::ptrdiff_t;
      using iterator_category = std::input_iterator_tag;

      Iterator() = default;
      Iterator(const Headers* headers, const Place* place) : headers_(headers), place_(place) {}
      Field operator*() const { return headers_->at(*place_); }
      Iterator& operator++() { return ++place_, *this; }
      Iterator operator++(int) { return Iterator(headers_, place_++); }
      bool operator==(const Iterator&) const = default;

     private:
      const Headers* headers_ = nullptr;
      const Place* place_ = nullptr;
    };

    explicit Fields(const Headers& headers) : headers_(&headers) {}
    Iterator begin() const { return {headers_, headers_->places_.data()}; }
    Iterator end() const { return {headers_, headers_->places_.data() + size()}; }
    std::size_t size() const { return headers_->places_.size(); }

   private:
    const Headers* headers_;
  };

  Headers() = default;
  Headers(std::initializer_list<Field> fields) {
    for (const auto& [name, value] : fields) add(name, value);
  }

  /// For whoever finds the fields in a text: keeps a copy of it, whose parts are then added as they are.
  /// There must be no fields yet.
  std::string_view keep(std::string_view text);
  /// Parts of what `keep` returned, checked to be well-formed.
  void add_kept(std::string_view name, std::string_view value);

  void add(std::string_view name, std::string_view value);  ///< not views of these headers
  void set(std::string_view name, std::string_view value);  ///< the same
  void remove(std::string_view name);
  template <class Condition>
  void remove_if(Condition condition) {  ///< condition(name)
    std::erase_if(places_, [&](const Place& place) { return condition(at(place).first); });
  }
  std::optional<std::string_view> get(std::string_view name) const;  ///< the first of that name
  Fields fields() const { return Fields(*this); }

 private:
  friend Result<void> check_headers(const Headers& headers);

  Field at(const Place& place) const {
    return {{text_.data() + place.name, place.name_bytes}, {text_.data() + place.value, place.value_bytes}};
  }

  std::string text_;
  std::vector<Place> places_;
};

struct RequestHead {
  std::string method;
  std::string target;  ///< as sent, percent-encoded: "/files?path=%2Ftmp"
  Headers headers;

  std::string_view path() const;   ///< before '?', still percent-encoded
  std::string_view query() const;  ///< after '?', without it
};

struct ResponseHead {
  int status = 200;
  Headers headers;
};

/// True if a header of that name lists `token`: has_token(headers, "connection", "upgrade").
bool has_token(const Headers& headers, std::string_view name, std::string_view token);

/// All that headers of that name list.
std::vector<std::string_view> tokens_of(const Headers& headers, std::string_view name);

struct Limits {
  std::size_t head_bytes = 64 << 10;  ///< request or status line and headers; more is 431
  std::size_t header_count = 128;
  std::size_t connections = 4096;
  std::size_t streams = 256;  ///< requests at a time on one HTTP/2 connection
  std::chrono::seconds head_timeout{
      30};  ///< from a request's first byte to the end of its head; TLS handshakes
  std::chrono::seconds idle_timeout{300};  ///< between requests
  /// How long a request's body may be waited for, all in all, beyond a second for each 1000 bytes; what reads
  /// it gets `deadline_exceeded`. Bodies of unannounced length that are read in pieces are not hurried: a
  /// stream may rest.
  std::chrono::seconds body_timeout{60};
};

/// One request and its response. Lives until its handler returns.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const RequestHead& request() const = 0;
  virtual const std::string& remote_address() const = 0;  ///< "127.0.0.1:4711" or "vsock"
  virtual asio::any_io_executor executor() const = 0;

  /// The next piece of the request's body as it arrives, 0 at its end. Answers "Expect: 100-continue" when
  /// first called.
  virtual asio::awaitable<Result<std::size_t>> read_body(asio::mutable_buffer buffer) = 0;

  /// The whole body; `resource_exhausted` as soon as it is known to exceed `limit`.
  virtual asio::awaitable<Result<std::string>> read_whole_body(std::size_t limit) = 0;

  /// Sends a whole response with Content-Length. The body must be empty for 204 and 304.
  virtual asio::awaitable<Result<void>> respond(ResponseHead head, std::string body) = 0;

  /// Starts a streamed response: with `Content-Length` if the head has one, else chunked. Then `write` any
  /// number of times, each piece sent at once, and `finish`. A handler that returns without finishing closes
  /// the connection (HTTP/2: resets the stream). A `first` piece goes out with the head and a `last` one with
  /// the end, in one write each: every write is a packet, and wakes whoever reads.
  virtual asio::awaitable<Result<void>> begin(ResponseHead head, asio::const_buffer first = {}) = 0;
  virtual asio::awaitable<Result<void>> write(asio::const_buffer piece) = 0;
  virtual asio::awaitable<Result<void>> finish(asio::const_buffer last = {}) = 0;

  /// The same as `write` with up to `most` bytes that come from a socket, but the kernel moves them. How
  /// many, which is less when they end; 0 where it cannot be done (TLS, HTTP/2, chunked).
  virtual asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from,
                                                        std::uint64_t most) = 0;

  /// True once anything of the response was sent.
  virtual bool started() const = 0;

  /// Called at most once, on the loop, when the client closes the connection (HTTP/2: or resets the stream)
  /// before the response is finished.
  virtual void on_client_gone(std::function<void()> callback) = 0;

  /// Drops the connection (HTTP/2: the stream) at once: what the client has of the response must not look
  /// complete. What still waits on this exchange ends with an error.
  virtual void abort() = 0;

  /// Sends the head (101, or 200 for CONNECT) and hands the raw connection over, bytes already read included.
  /// `unimplemented` on HTTP/2, where the exchange can still be answered otherwise.
  virtual asio::awaitable<Result<std::unique_ptr<Stream>>> upgrade(ResponseHead head) = 0;
};

/// Must not throw; if it does, or returns without a response, the server answers 500 and logs.
using Handler = std::function<asio::awaitable<void>(Exchange&)>;

/// A certificate with its key, for any number of servers. Only in programs linked with tls_dep.
class Tls;

/// PEM files; the certificate's may hold the chain up to the authority. An error names the file.
Result<std::shared_ptr<Tls>> load_tls(std::string certificate_file, std::string key_file);

/// Reads the files again. Connections made from now on get the new certificate; if a file is bad all stays as
/// it was. Called on the loop of the servers.
Result<void> reload_tls(Tls& tls);

/// When the certificate ends, for logs: "2027-01-02T03:04:05Z".
std::string certificate_end(const Tls& tls);

class Server {
 public:
  Server(asio::any_io_executor loop, Handler handler, Limits limits = {});
  ~Server();  ///< the same as stop()

  /// Accepts on `address`:`port` (port 0: any). `already_exists` with the address if the port is taken. With
  /// `tls` each connection's first byte tells: TLS with HTTP/2 or HTTP/1.1 as the client chooses (ALPN), or
  /// plain HTTP/1.1.
  Result<std::uint16_t> listen(const std::string& address, std::uint16_t port,
                               std::shared_ptr<Tls> tls = nullptr);

  /// Serves one connection made otherwise (vsock); `remote` is for logs.
  void serve(std::unique_ptr<Stream> connection, std::string remote);

  /// Closes the acceptors and every connection; those of HTTP/2 with a last word (GOAWAY), if the loop goes
  /// on.
  void stop();

  std::size_t connection_count() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

struct Response;

/// The client side of one connection: one request at a time, many one after another.
class ClientConnection {
 public:
  explicit ClientConnection(std::unique_ptr<Stream> stream, Limits limits = {});
  ~ClientConnection();
  ClientConnection(ClientConnection&&) noexcept;
  ClientConnection& operator=(ClientConnection&&) noexcept;

  /// Sends a head: framing is Content-Length if the head has one, chunked if it has "Transfer-Encoding:
  /// chunked", else the request has no body. Pieces as in Exchange.
  asio::awaitable<Result<void>> begin(RequestHead head, asio::const_buffer first = {});
  asio::awaitable<Result<void>> write(asio::const_buffer piece);
  asio::awaitable<Result<void>> finish(asio::const_buffer last = {});

  /// Skips 100 Continue. May be awaited while another coroutine still writes the request.
  asio::awaitable<Result<ResponseHead>> read_head();
  asio::awaitable<Result<std::size_t>> read_body(asio::mutable_buffer buffer);
  asio::awaitable<Result<std::string>> read_whole_body(std::size_t limit);

  /// The next piece of the response's body for whoever passes it on, uncopied if it can be; empty at the end.
  /// It is given back with the next call, or by itself.
  asio::awaitable<Result<asio::const_buffer>> next_piece();
  /// The same without waiting: also empty if nothing is here yet.
  Result<asio::const_buffer> piece_here();
  void give_back_piece();
  /// Has the kernel move what follows to the exchange, if there is much of it and it can be done. Pieces may
  /// follow all the same.
  asio::awaitable<Result<void>> splice_body(Exchange& exchange);
  /// Nothing follows what was read.
  bool body_ended() const;

  /// True when the last response was read to its end and the peer keeps the connection open.
  bool reusable() const;

  /// After a 101: the raw connection, bytes already read included.
  std::unique_ptr<Stream> release();

  void close();

 private:
  friend asio::awaitable<Result<Response>> request(ClientConnection&, RequestHead, std::string, std::size_t);
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

struct Response {
  int status = 0;
  Headers headers;
  std::string body;
};

/// One request with a whole body, one whole response. Adds Content-Length.
asio::awaitable<Result<Response>> request(ClientConnection& connection, RequestHead head, std::string body,
                                          std::size_t response_limit);

/// A connected socket as a Stream that does not delay small packets.
std::unique_ptr<Stream> make_tcp_stream(asio::ip::tcp::socket socket);
asio::awaitable<Result<std::unique_ptr<Stream>>> connect_tcp(std::string address, std::uint16_t port,
                                                             std::chrono::milliseconds timeout);

/// "%2F" to "/"; nothing for a malformed escape or a NUL byte. '+' stays '+'.
std::optional<std::string> percent_decode(std::string_view text);

/// The decoded value of a query parameter, '+' read as space; nothing if absent or malformed.
std::optional<std::string> query_parameter(std::string_view query, std::string_view name);

std::string_view reason_phrase(int status);

}  // namespace cube::http
