// Http2Exchange: one request and its response on a stream of an HTTP/2 connection.
#pragma once

#include <memory>

#include "http/handling.hpp"
#include "http/http2_session.hpp"
#include "http/patience.hpp"

namespace cube::http {

class Http2Exchange final : public ServedExchange {
 public:
  Http2Exchange(std::shared_ptr<Http2Session> session, std::shared_ptr<Http2Stream> stream,
                ParsedRequest request, std::chrono::seconds body_timeout);
  ~Http2Exchange() override;

  const RequestHead& request() const override { return request_.head; }
  const std::string& remote_address() const override { return session_->connection().remote(); }
  asio::any_io_executor executor() const override { return session_->connection().executor(); }

  asio::awaitable<Result<std::size_t>> read_body(asio::mutable_buffer buffer) override;
  asio::awaitable<Result<std::string>> read_whole_body(std::size_t limit) override;

  asio::awaitable<Result<void>> respond(ResponseHead head, std::string body) override;
  asio::awaitable<Result<void>> begin(ResponseHead head, asio::const_buffer first) override;
  asio::awaitable<Result<void>> write(asio::const_buffer piece) override;
  asio::awaitable<Result<void>> finish(asio::const_buffer last) override;
  asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from,
                                                std::uint64_t most) override;

  bool started() const override { return state_ != State::unopened; }
  void on_client_gone(std::function<void()> callback) override;
  void abort() override;
  asio::awaitable<Result<std::unique_ptr<Stream>>> upgrade(ResponseHead head) override;

  bool completed() const override { return state_ == State::finished; }
  bool client_gone() const override { return stream_->closed && !stream_->whole; }

 private:
  enum class State { unopened, open, finished, broken };

  Result<void> answer_expectation();
  Result<void> open(const ResponseHead& head, bool without_body);
  Result<void> check_open() const;
  Result<void> count(std::size_t size);
  asio::awaitable<Result<void>> send(asio::const_buffer piece, bool last);
  bool never_has_body(int status) const {
    return status == 204 || status == 304 || request_.head.method == "HEAD";
  }
  Error gone() const;

  std::shared_ptr<Http2Session> session_;
  std::shared_ptr<Http2Stream> stream_;
  ParsedRequest request_;
  State state_ = State::unopened;
  std::chrono::seconds body_timeout_;
  Patience patience_;
  bool awaits_continue_;
  bool bodiless_ = false;                   ///< the head was the whole response
  std::optional<std::uint64_t> remaining_;  ///< of an announced Content-Length
};

}  // namespace cube::http
