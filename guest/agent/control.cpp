#include "control.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cube/guest.hpp>
#include <limits>

#include "command.hpp"
#include "environment.hpp"
#include "init.hpp"
#include "reply.hpp"
#include "settle.hpp"

namespace cube::agent {
namespace {

constexpr std::size_t request_limit = 4 << 20;
constexpr std::chrono::hours longest_run{24};

/// In a process of its own: neither call has a bound on how long it takes.
int flush_and_trim() {
  ::sync();
  const int root = ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  fstrim_range range{};
  range.len = std::numeric_limits<decltype(range.len)>::max();
  // A file system or disk that cannot be trimmed is as good as before.
  if (root >= 0) ::ioctl(root, FITRIM, &range);
  return 0;
}

asio::awaitable<Result<JsonObject>> read_object(http::Exchange& exchange) {
  auto body = co_await exchange.read_whole_body(request_limit);
  if (!body) co_return std::move(body).error();
  co_return JsonObject::parse(std::move(*body));
}

/// The first moment that is of interest, in nanoseconds; all of them without.
Result<std::int64_t> since_of(std::string_view query) {
  const std::string text = http::query_parameter(query, "since").value_or("0");
  std::int64_t since = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), since);
  if (error != std::errc{} || end != text.data() + text.size())
    return make_error(ErrorCode::invalid_argument, "since must be the wall clock in nanoseconds");
  return since;
}

std::string ready_json() {
  JsonWriter json;
  return json.begin_object().key("envdVersion").value(guest::envd_version).end_object().take();
}

asio::awaitable<void> reply_failure(http::Exchange& exchange, const Error& error) {
  co_await reply_error(exchange, http_status(error.code), error.describe());
}

}  // namespace

Control::Control(asio::any_io_executor loop, Role role, Children& children, Settings& settings,
                 const Journal& journal, std::function<void()> shut_down)
    : loop_(std::move(loop)),
      role_(role),
      children_(children),
      settings_(settings),
      journal_(journal),
      usage_(loop_),
      shut_down_(std::move(shut_down)) {}

asio::awaitable<void> Control::serve(http::Exchange& exchange) {
  const http::RequestHead& head = exchange.request();
  const std::string route = head.method + " " + std::string(head.path());
  if (route == "GET /ready") {
    co_await reply_json(exchange, 200, ready_json());
  } else if (route == "POST /init") {
    if (const auto done = co_await initialise(exchange); done)
      co_await reply_empty(exchange, 204);
    else
      co_await reply_failure(exchange, done.error());
  } else if (route == "POST /run") {
    if (auto result = co_await run(exchange); result)
      co_await reply_json(exchange, 200, std::move(*result));
    else
      co_await reply_failure(exchange, result.error());
  } else if (route == "POST /sync") {
    if (const auto done = co_await sync(); done)
      co_await reply_empty(exchange, 204);
    else
      co_await reply_failure(exchange, done.error());
  } else if (route == "POST /settle") {
    co_await settle(loop_);
    co_await reply_empty(exchange, 204);
  } else if (route == "GET /metrics") {
    std::string usage = co_await usage_.json();
    co_await reply_json(exchange, 200, std::move(usage));
  } else if (route == "GET /journal") {
    if (const auto since = since_of(head.query()); since)
      co_await reply_json(exchange, 200, journal_.json(*since));
    else
      co_await reply_failure(exchange, since.error());
  } else if (route == "POST /shutdown") {
    co_await reply_empty(exchange, 202);
    shut_down_();
  } else {
    co_await reply_error(exchange, 404, "no such control request: " + route);
  }
}

asio::awaitable<Result<void>> Control::initialise(http::Exchange& exchange) {
  auto message = co_await read_object(exchange);
  if (!message) co_return std::move(message).error();
  auto request = parse_init(*message);
  if (!request) co_return std::move(request).error();
  if (role_ == Role::machine)
    if (auto renewed = renew_machine(*request); !renewed) co_return std::move(renewed).error();
  settings_ = settings_after(std::move(*request), std::move(settings_));
  co_return Result<void>{};
}

asio::awaitable<Result<std::string>> Control::run(http::Exchange& exchange) {
  auto message = co_await read_object(exchange);
  if (!message) co_return std::move(message).error();
  auto command = message->string("command");
  if (!command) co_return std::move(command).error();
  auto user_name = message->string("user");
  if (!user_name) co_return std::move(user_name).error();
  auto timeout = message->integer("timeoutMs");
  if (!timeout) co_return std::move(timeout).error();
  if (command->empty() || command->find('\0') != std::string::npos)
    co_return make_error(ErrorCode::invalid_argument, "command is missing or holds a NUL");

  auto user = acting_user(settings_, user_name->empty() ? std::string_view("root") : *user_name);
  if (!user) co_return std::move(user).error();
  auto environment = environment_for(settings_, *user, {});
  if (!environment) co_return std::move(environment).error();
  Program program;
  program.arguments.emplace_back("/bin/bash");
  program.arguments.emplace_back("-l");
  program.arguments.emplace_back("-c");
  program.arguments.push_back(std::move(*command));
  program.environment = std::move(*environment);
  program.directory = resolve_path(settings_, *user, "");
  program.user = std::move(*user);

  std::chrono::milliseconds limit = longest_run;
  if (*timeout > 0) limit = std::min(limit, std::chrono::milliseconds(*timeout));
  auto result = co_await run_command(loop_, children_, std::move(program), limit);
  if (!result) co_return std::move(result).error();
  if (result->timed_out) result->output += "\nkilled after " + std::to_string(limit.count()) + " ms\n";
  JsonWriter json;
  json.begin_object().key("exitCode").value(exit_code_of(result->status));
  json.key("output").value(result->output).end_object();
  co_return json.take();
}

asio::awaitable<Result<void>> Control::sync() {
  auto child = children_.fork_task(flush_and_trim);
  if (!child) co_return std::move(child).error();
  if (co_await (*child)->wait() != 0)
    co_return make_error(ErrorCode::internal, "flushing the file systems failed");
  co_return Result<void>{};
}

}  // namespace cube::agent
