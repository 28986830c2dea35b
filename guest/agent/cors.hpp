// Cross-origin access: every page may use a sandbox it has the token of, so every answer says so.
#pragma once

#include <cube/http.hpp>

namespace cube::agent {

/// Passes everything on to another exchange, adding the CORS headers to the response.
class CorsExchange final : public http::Exchange {
 public:
  explicit CorsExchange(http::Exchange& inner) : inner_(inner) {}

  const http::RequestHead& request() const override { return inner_.request(); }
  const std::string& remote_address() const override { return inner_.remote_address(); }
  asio::any_io_executor executor() const override { return inner_.executor(); }
  asio::awaitable<Result<std::size_t>> read_body(asio::mutable_buffer buffer) override {
    return inner_.read_body(buffer);
  }
  asio::awaitable<Result<std::string>> read_whole_body(std::size_t limit) override {
    return inner_.read_whole_body(limit);
  }
  asio::awaitable<Result<void>> respond(http::ResponseHead head, std::string body) override {
    return inner_.respond(allow(std::move(head)), std::move(body));
  }
  asio::awaitable<Result<void>> begin(http::ResponseHead head, asio::const_buffer first) override {
    return inner_.begin(allow(std::move(head)), first);
  }
  asio::awaitable<Result<void>> write(asio::const_buffer piece) override { return inner_.write(piece); }
  asio::awaitable<Result<void>> finish(asio::const_buffer last) override { return inner_.finish(last); }
  asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from,
                                                std::uint64_t most) override {
    return inner_.splice(std::move(from), most);
  }
  bool started() const override { return inner_.started(); }
  void on_client_gone(std::function<void()> callback) override { inner_.on_client_gone(std::move(callback)); }
  void abort() override { inner_.abort(); }
  asio::awaitable<Result<std::unique_ptr<Stream>>> upgrade(http::ResponseHead head) override {
    return inner_.upgrade(allow(std::move(head)));
  }

 private:
  http::ResponseHead allow(http::ResponseHead head) const;

  http::Exchange& inner_;
};

}  // namespace cube::agent
