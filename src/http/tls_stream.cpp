#include "http/tls_stream.hpp"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <cstring>

#include "http/watchdog.hpp"

namespace cube::http {
namespace {

constexpr unsigned char handshake_record = 0x16;
constexpr std::size_t record_capacity = 16 << 10;
constexpr std::size_t input_capacity = 16 << 10;
// A peer that makes us answer (key updates) without reading the answers gets no further.
constexpr std::size_t unread_answers = 64 << 10;

using Protocol = Opening::Protocol;

/// Shared by the coroutines, so that a stream destroyed under an operation leaves nothing dangling.
struct State {
  State(const asio::any_io_executor& loop, std::unique_ptr<Stream> stream, std::shared_ptr<SSL_CTX> tls,
        std::shared_ptr<Opening> first, std::chrono::seconds time, std::string peer)
      : executor(loop),
        raw(std::move(stream)),
        context(std::move(tls)),
        opening(std::move(first)),
        timeout(time),
        remote(std::move(peer)),
        flushed(executor) {}

  bool decided() const { return opening->protocol != Protocol::unknown; }

  asio::any_io_executor executor;
  std::unique_ptr<Stream> raw;
  std::shared_ptr<SSL_CTX> context;
  std::unique_ptr<TlsEngine> engine;  ///< once it is known that this is TLS
  std::shared_ptr<Opening> opening;
  std::chrono::seconds timeout;
  std::string remote;
  std::unique_ptr<char[]> input;  ///< what the engine was fed from
  Event flushed;
  bool flushing = false;
  bool closed = false;
};
using Shared = std::shared_ptr<State>;

Error closed_error() { return make_error(ErrorCode::cancelled, "the connection was closed"); }

/// Sends what the engine has for the network, in order, whoever calls.
asio::awaitable<Result<void>> flush(Shared state) {
  while (state->flushing) co_await state->flushed.wait();
  if (state->closed) co_return closed_error();
  const std::string output = state->engine->take_output();
  if (output.empty()) co_return Result<void>{};
  state->flushing = true;
  auto sent = co_await state->raw->write(asio::buffer(output));
  state->flushing = false;
  state->flushed.notify();
  co_return sent;
}

/// What reading made the engine say. It does not wait behind a write under way, but goes with the next one:
/// reading must not stop because the peer sends first and reads later.
asio::awaitable<Result<void>> flush_answers(Shared state) {
  if (state->engine->output_size() > unread_answers)
    co_return make_error(ErrorCode::resource_exhausted, "the peer does not read", state->remote);
  if (state->flushing || state->engine->output_size() == 0) co_return Result<void>{};
  co_return co_await flush(state);
}

/// More bytes of the network for the engine; false at their end.
asio::awaitable<Result<bool>> feed(Shared state) {
  if (!state->input) state->input = std::make_unique_for_overwrite<char[]>(input_capacity);
  auto count = co_await state->raw->read_some(asio::buffer(state->input.get(), input_capacity));
  if (!count.ok()) co_return std::move(count).error();
  state->engine->feed({state->input.get(), *count});
  co_return *count > 0;
}

asio::awaitable<Result<void>> shake_hands(Shared state) {
  for (;;) {
    const TlsEngine::Status status = state->engine->handshake();
    // Also when it failed: the alert tells the peer why.
    const std::string failure = state->engine->failure();
    auto flushed = co_await flush(state);
    if (status == TlsEngine::Status::ok) co_return flushed;
    if (status != TlsEngine::Status::wants_input)
      co_return make_error(ErrorCode::unavailable, failure.empty() ? "the peer ended it" : failure);
    if (!flushed.ok()) co_return flushed;
    const auto more = co_await feed(state);
    if (!more.ok()) co_return more.error();
    if (!*more) co_return make_error(ErrorCode::unavailable, "the peer closed the connection");
  }
}

asio::awaitable<Result<std::size_t>> read_plain(Shared state, asio::mutable_buffer buffer) {
  for (;;) {
    if (state->closed) co_return closed_error();
    std::size_t count = 0;
    const TlsEngine::Status status = state->engine->read(buffer, count);
    const std::string failure = state->engine->failure();
    const auto flushed = co_await flush_answers(state);
    if (status == TlsEngine::Status::ok) co_return count;
    if (status == TlsEngine::Status::ended) co_return std::size_t{0};
    if (status == TlsEngine::Status::failed)
      co_return make_error(ErrorCode::unavailable, failure, state->remote);
    if (!flushed.ok()) co_return flushed.error();
    const auto more = co_await feed(state);
    if (!more.ok()) co_return more.error();
    // Without a close_notify too: messages say themselves where they end.
    if (!*more) co_return std::size_t{0};
  }
}

/// Reads the first bytes into the caller's buffer and decides; what they are if plain.
asio::awaitable<Result<std::size_t>> open(Shared state, asio::mutable_buffer buffer) {
  const Watchdog watchdog(state->executor, state->timeout, [&] { state->raw->close(); });
  auto count = co_await state->raw->read_some(asio::buffer(buffer, input_capacity));
  if (!count.ok() || *count == 0) {
    state->opening->decide(Protocol::failed);
    co_return count;
  }
  if (*static_cast<const unsigned char*>(buffer.data()) != handshake_record) {
    state->context.reset();
    state->opening->decide(Protocol::http1);
    co_return count;
  }
  state->engine = std::make_unique<TlsEngine>(std::exchange(state->context, nullptr).get());
  state->input = std::make_unique_for_overwrite<char[]>(input_capacity);
  std::memcpy(state->input.get(), buffer.data(), *count);
  state->engine->feed({state->input.get(), *count});
  const auto done = co_await shake_hands(state);
  if (!done.ok()) {
    log(LogLevel::debug, "http", "TLS handshake failed",
        {{"remote", state->remote}, {"error", done.error().message}});
    state->opening->decide(Protocol::failed);
    co_return done.error();
  }
  const bool http2 = state->engine->protocol() == "h2";
  log(LogLevel::debug, "http", "TLS connection",
      {{"remote", state->remote}, {"protocol", http2 ? "HTTP/2" : "HTTP/1.1"}});
  state->opening->decide(http2 ? Protocol::http2 : Protocol::http1);
  co_return std::size_t{0};
}

asio::awaitable<Result<std::size_t>> read_first(Shared state, asio::mutable_buffer buffer) {
  auto opened = co_await open(state, buffer);
  if (!opened.ok() || !state->engine || state->opening->protocol == Protocol::failed) co_return opened;
  co_return co_await read_plain(state, buffer);
}

asio::awaitable<Result<void>> write_secured(Shared state, asio::const_buffer buffer) {
  while (buffer.size() > 0) {
    const std::size_t count = std::min(buffer.size(), record_capacity);
    if (state->closed) co_return closed_error();
    const TlsEngine::Status status = state->engine->write(asio::buffer(buffer, count));
    if (status != TlsEngine::Status::ok)
      co_return make_error(ErrorCode::unavailable, state->engine->failure(), state->remote);
    buffer += count;
    // Several records make one write of the socket.
    const bool more_fits = buffer.size() > 0 && state->engine->output_size() < 4 * record_capacity;
    if (more_fits) continue;
    auto sent = co_await flush(state);
    if (!sent.ok()) co_return sent;
  }
  co_return Result<void>{};
}

asio::awaitable<Result<void>> write_when_open(Shared state, asio::const_buffer buffer) {
  co_await state->opening->wait();
  if (state->closed || state->opening->protocol == Protocol::failed) co_return closed_error();
  if (!state->engine) co_return co_await state->raw->write(buffer);
  co_return co_await write_secured(state, buffer);
}

asio::awaitable<void> say_goodbye(Shared state) {
  state->engine->shut_down();
  const auto sent = co_await flush(state);
  if (sent.ok() && !state->closed) state->raw->shutdown_write();
}

class TlsStream final : public Stream {
 public:
  explicit TlsStream(Shared state) : state_(std::move(state)) {}
  ~TlsStream() override { close(); }

  asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) override {
    if (!state_->decided()) return read_first(state_, buffer);
    return state_->engine ? read_plain(state_, buffer) : state_->raw->read_some(buffer);
  }

  asio::awaitable<Result<void>> write(asio::const_buffer buffer) override {
    if (!state_->decided()) return write_when_open(state_, buffer);
    return state_->engine ? write_secured(state_, buffer) : state_->raw->write(buffer);
  }

  std::size_t write_now(asio::const_buffer buffer) override {
    return state_->decided() && !state_->engine ? state_->raw->write_now(buffer) : 0;
  }

  void shutdown_write() override {
    if (state_->engine && !state_->closed)
      asio::co_spawn(state_->executor, say_goodbye(state_), asio::detached);
    else
      state_->raw->shutdown_write();
  }

  // Without a close_notify: a response that is dropped must not look complete.
  void close() override {
    if (std::exchange(state_->closed, true)) return;
    state_->raw->close();
    if (!state_->decided()) state_->opening->decide(Protocol::failed);
  }

  std::shared_ptr<StreamSocket> socket() override {
    return state_->decided() && !state_->engine ? state_->raw->socket() : nullptr;
  }

 private:
  Shared state_;
};

}  // namespace

std::unique_ptr<Stream> make_tls_stream(const asio::any_io_executor& executor, std::unique_ptr<Stream> raw,
                                        std::shared_ptr<SSL_CTX> context, std::shared_ptr<Opening> opening,
                                        std::chrono::seconds timeout, std::string remote) {
  return std::make_unique<TlsStream>(std::make_shared<State>(executor, std::move(raw), std::move(context),
                                                             std::move(opening), timeout, std::move(remote)));
}

}  // namespace cube::http
