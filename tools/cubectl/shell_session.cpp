// A pseudo-terminal in a sandbox, joined to the user's.
#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <csignal>
#include <cstdlib>

#include "attached_process.hpp"
#include "standard_input.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr std::size_t input_piece = 16 << 10;
constexpr std::chrono::seconds keep_alive_interval{15};
constexpr const char* keep_alive_body = R"({"duration":60})";
constexpr std::chrono::seconds kill_patience{2};

struct RemoteTerminal {
  Client& client;
  Sandbox sandbox;
  std::unique_ptr<ProcessStream> stream;
  int signal = 0;  ///< that ends us
};
using Shared = std::shared_ptr<RemoteTerminal>;

awaitable<void> feed_keys(Shared shell, StandardInput keyboard) {
  for (;;) {
    auto keys = co_await keyboard.read(input_piece);
    if (!keys.ok() || keys->empty()) break;  // the terminal is gone, and SIGHUP says so
    const auto sent = co_await send_input(shell->client, shell->sandbox, shell->stream->pid(),
                                          InputKind::terminal, std::move(*keys));
    if (!sent.ok()) break;  // the shell has ended: its stream tells how
  }
}

awaitable<void> follow_size(Shared shell) {
  asio::signal_set changes(co_await asio::this_coro::executor, SIGWINCH);
  for (;;) {
    co_await changes.async_wait(asio::use_awaitable);
    const auto size = terminal_size(0);
    if (!size) continue;
    const auto resized = co_await resize(shell->client, shell->sandbox, shell->stream->pid(), *size);
    if (!resized.ok()) co_return;  // as for keys
  }
}

/// Nobody wants the sandbox to end under their fingers. A failure shows in the stream.
awaitable<void> keep_alive(Shared shell) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (;;) {
    const auto extended = co_await shell->client.request(
        "POST", "/sandboxes/" + url_encode(shell->sandbox.id) + "/refreshes", keep_alive_body);
    if (!extended.ok()) co_return;
    timer.expires_after(keep_alive_interval);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

awaitable<void> kill_shell(Shared shell) {
  const auto killed = co_await send_signal(shell->client, shell->sandbox, shell->stream->pid(), SIGKILL);
  if (!killed.ok()) shell->stream->close();
}

/// The terminal is closed, or somebody ends us: the shell ends as well.
awaitable<void> end_on_signal(Shared shell) {
  const auto loop = co_await asio::this_coro::executor;
  asio::signal_set signals(loop, SIGHUP, SIGTERM, SIGINT);
  shell->signal = co_await signals.async_wait(asio::use_awaitable);
  asio::co_spawn(loop, kill_shell(shell), asio::detached);
  asio::steady_timer timer(loop, kill_patience);
  co_await timer.async_wait(asio::use_awaitable);
  shell->stream->close();
}

void add_terminal_environment(std::map<std::string, std::string>& environment) {
  const char* terminal = std::getenv("TERM");
  environment.emplace("TERM", terminal && *terminal ? terminal : "xterm-256color");
  environment.emplace("LANG", "C.UTF-8");
  environment.emplace("LC_ALL", "C.UTF-8");
}

awaitable<Outcome> show_to_end(Shared shell) {
  for (;;) {
    const auto event = co_await shell->stream->next();
    if (!event && shell->signal > 0) co_return 128 + shell->signal;
    if (!event) co_return event.error();
    if ((*event)->kind == ProcessEvent::Kind::end)
      co_return shell->signal > 0 ? 128 + shell->signal : (*event)->exit_status;
    if ((*event)->kind != ProcessEvent::Kind::terminal) continue;
    const auto shown = write_out(1, (*event)->bytes);
    if (shown.ok()) continue;
    co_await kill_shell(shell);
    co_return shown.error();
  }
}

}  // namespace

awaitable<Outcome> run_in_terminal(Session& session, Sandbox sandbox, ProcessRequest request) {
  if (session.json)
    co_return make_error(ErrorCode::invalid_argument, "a terminal has no JSON; leave out --json");
  request.terminal = terminal_size(0);
  if (!request.terminal || ::isatty(1) != 1)
    co_return make_error(
        ErrorCode::invalid_argument,
        "standard input and output are no terminal; cubectl sandbox exec without --tty needs none");
  add_terminal_environment(request.environment);
  request.input = true;

  const auto loop = co_await asio::this_coro::executor;
  auto keyboard = StandardInput::open(loop);
  if (!keyboard) co_return std::move(keyboard).error();
  auto stream = co_await ProcessStream::start(session.client, sandbox, std::move(request));
  if (!stream) co_return std::move(stream).error();
  const Shared shell(new RemoteTerminal{session.client, std::move(sandbox), std::move(*stream)});
  auto raw = RawTerminal::enter(0);
  if (!raw) {
    co_await kill_shell(shell);
    co_return std::move(raw).error();
  }
  asio::co_spawn(loop, end_on_signal(shell), asio::detached);
  asio::co_spawn(loop, follow_size(shell), asio::detached);
  asio::co_spawn(loop, keep_alive(shell), asio::detached);
  asio::co_spawn(loop, feed_keys(shell, std::move(*keyboard)), asio::detached);
  co_return co_await show_to_end(shell);
}

}  // namespace cube::cubectl
