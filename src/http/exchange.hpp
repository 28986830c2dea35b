// ServerExchange: one request and its response on a connection, and what is left of them for the next one.
#pragma once

#include <cube/http.hpp>
#include <memory>

#include "http/body_stream.hpp"
#include "http/connection.hpp"
#include "http/handling.hpp"
#include "http/head.hpp"

namespace cube::http {

class ServerExchange final : public ServedExchange {
 public:
  ServerExchange(std::shared_ptr<Connection> connection, ParsedRequest request,
                 std::chrono::seconds body_timeout);
  ~ServerExchange() override;

  const RequestHead& request() const override { return request_.head; }
  const std::string& remote_address() const override { return connection_->remote(); }
  asio::any_io_executor executor() const override { return connection_->executor(); }

  asio::awaitable<Result<std::size_t>> read_body(asio::mutable_buffer buffer) override;
  asio::awaitable<Result<std::string>> read_whole_body(std::size_t limit) override;

  asio::awaitable<Result<void>> respond(ResponseHead head, std::string body) override;
  asio::awaitable<Result<void>> begin(ResponseHead head, asio::const_buffer first) override;
  asio::awaitable<Result<void>> write(asio::const_buffer piece) override;
  asio::awaitable<Result<void>> finish(asio::const_buffer last) override;
  asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from,
                                                std::uint64_t most) override {
    return output_.splice(std::move(from), most);
  }

  bool started() const override { return output_.opened(); }
  void on_client_gone(std::function<void()> callback) override;
  void abort() override { connection_->close(); }
  asio::awaitable<Result<std::unique_ptr<Stream>>> upgrade(ResponseHead head) override;

  bool completed() const override { return finished() || upgraded_; }
  bool client_gone() const override { return connection_->ended(); }
  bool finished() const { return output_.finished(); }
  bool upgraded() const { return upgraded_; }

  /// After the handler: another request may follow, once the rest of this one's body was drained. False if
  /// that is too much, or comes too slowly.
  bool keeps_connection() const;
  bool drained() const { return input_.complete(); }
  asio::awaitable<bool> drain();

 private:
  asio::awaitable<Result<void>> answer_expectation();
  Result<void> check_start(const ResponseHead& head) const;
  bool has_no_body(int status) const { return status == 204 || status == 304; }
  bool answers_head() const { return request_.head.method == "HEAD"; }
  void set_connection_header(Headers& headers);

  std::shared_ptr<Connection> connection_;
  ParsedRequest request_;
  BodyInput input_;
  BodyOutput output_;
  bool awaits_continue_;
  bool keep_alive_;
  bool upgraded_ = false;
  std::function<void()> client_gone_callback_;
};

}  // namespace cube::http
