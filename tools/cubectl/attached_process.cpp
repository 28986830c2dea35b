#include "attached_process.hpp"

#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/signal_set.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <csignal>

#include "json.hpp"
#include "standard_input.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr std::size_t input_piece = 256 << 10;
constexpr int signals_before_leaving = 3;  // SIGTERM, SIGKILL, and then without waiting for the daemon
constexpr int broken_pipe_status = 128 + SIGPIPE;

struct Attached {
  Client& client;
  Sandbox sandbox;
  std::int64_t pid;
  int signal = 0;  ///< the last that we got
};

/// The process may be gone already, or not want what comes: its end says what there is to say.
bool is_over(const Error& error) {
  return error.code == ErrorCode::not_found || error.code == ErrorCode::invalid_argument;
}

awaitable<void> feed_input(std::shared_ptr<Attached> process, StandardInput input) {
  for (;;) {
    auto piece = co_await input.read(input_piece);
    if (!piece.ok()) complain(piece.error());
    if (!piece.ok() || piece->empty()) break;
    const auto sent = co_await send_input(process->client, process->sandbox, process->pid,
                                          InputKind::standard_input, std::move(*piece));
    if (sent.ok()) continue;
    if (!is_over(sent.error())) complain(sent.error());
    co_return;
  }
  const auto closed = co_await close_input(process->client, process->sandbox, process->pid);
  if (!closed.ok() && !is_over(closed.error())) complain(closed.error());
}

awaitable<void> pass_on_signal(std::shared_ptr<Attached> process, int number) {
  const auto sent = co_await send_signal(process->client, process->sandbox, process->pid, number);
  if (!sent.ok() && !is_over(sent.error())) complain(sent.error());
}

awaitable<void> pass_on_signals(std::shared_ptr<Attached> process) {
  const auto loop = co_await asio::this_coro::executor;
  asio::signal_set signals(loop, SIGINT, SIGTERM, SIGHUP);
  for (int count = 1;; ++count) {
    process->signal = co_await signals.async_wait(asio::use_awaitable);
    if (count == signals_before_leaving) ::_exit(128 + process->signal);
    asio::co_spawn(loop, pass_on_signal(process, count == 1 ? SIGTERM : SIGKILL), asio::detached);
  }
}

Result<void> show(const ProcessEvent& event, bool json) {
  if (json) {
    if (event.kind != ProcessEvent::Kind::other) print_json(event.json);
    return {};
  }
  if (event.kind == ProcessEvent::Kind::standard_output) return write_out(1, event.bytes);
  if (event.kind == ProcessEvent::Kind::standard_error) return write_out(2, event.bytes);
  return {};
}

}  // namespace

awaitable<Outcome> run_attached(Session& session, Sandbox sandbox, ProcessRequest request) {
  const auto loop = co_await asio::this_coro::executor;
  const bool with_input = request.input;
  auto stream = co_await ProcessStream::start(session.client, sandbox, std::move(request));
  if (!stream) co_return std::move(stream).error();
  if (session.json) print_json((*stream)->start_json());
  const std::shared_ptr<Attached> process(new Attached{session.client, std::move(sandbox), (*stream)->pid()});
  asio::co_spawn(loop, pass_on_signals(process), asio::detached);
  if (with_input) {
    auto input = StandardInput::open(loop);
    if (!input) co_return std::move(input).error();
    asio::co_spawn(loop, feed_input(process, std::move(*input)), asio::detached);
  }
  for (;;) {
    const auto event = co_await (*stream)->next();
    if (!event) co_return event.error();
    const auto shown = show(**event, session.json);
    if (!shown.ok()) {
      co_await pass_on_signal(process, SIGKILL);
      if (shown.error().code == ErrorCode::cancelled) co_return broken_pipe_status;
      co_return shown.error();
    }
    if ((*event)->kind != ProcessEvent::Kind::end) continue;
    co_return process->signal > 0 ? 128 + process->signal : (*event)->exit_status;
  }
}

}  // namespace cube::cubectl
