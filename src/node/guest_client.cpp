#include "node/guest_client.hpp"

#include <simdjson.h>

#include <array>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <cube/http.hpp>

#include "http/watchdog.hpp"

namespace cube::node {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

constexpr std::size_t journal_limit = guest::journal_bytes + (64 << 10);
constexpr milliseconds retry_pause{20};

Error no_answer(std::string what) {
  return make_error(ErrorCode::deadline_exceeded, "the guest does not answer in time", std::move(what));
}

/// The agent's errors are {"code","message"}.
Error agent_error(const http::Response& response) {
  simdjson::dom::parser parser;
  std::string_view message;
  if (parser.parse(response.body).get_object()["message"].get(message) != simdjson::SUCCESS)
    message = "no reason given";
  return make_error(
      ErrorCode::unavailable,
      "the guest refuses with status " + std::to_string(response.status) + ": " + std::string(message));
}

std::string to_json(const guest::InitRequest& request) {
  JsonWriter json;
  json.begin_object();
  json.key("sandboxId").value(request.sandbox_id).key("templateId").value(request.template_id);
  json.key("entropy").value(request.entropy_hex);
  json.key("unixTimeNs").value(std::to_string(request.unix_time_ns));
  json.key("accessToken").value(request.access_token);
  json.key("defaultUser").value(request.default_user).key("defaultWorkdir").value(request.default_workdir);
  json.key("newIdentity").value(request.new_identity);
  if (request.env_vars) {
    json.key("envVars").begin_object();
    for (const auto& [name, value] : *request.env_vars) json.key(name).value(value);
    json.end_object();
  }
  return json.end_object().take();
}

}  // namespace

asio::awaitable<Result<std::string>> GuestClient::call(std::string method, std::string path, std::string body,
                                                       milliseconds timeout, std::size_t answer_limit) {
  const auto started = SteadyClock::now();
  auto stream = co_await machine_->connect(guest::control_port, timeout);
  if (!stream) co_return std::move(stream).error();
  http::ClientConnection connection(std::move(*stream));
  const auto spent = std::chrono::duration_cast<milliseconds>(SteadyClock::now() - started);
  const auto executor = co_await asio::this_coro::executor;
  const http::Watchdog watchdog(executor, std::max(timeout - spent, milliseconds(1)),
                                [&] { connection.close(); });
  http::RequestHead head{method, path, {{"Host", "guest"}, {"Content-Type", "application/json"}}};
  auto response = co_await http::request(connection, std::move(head), std::move(body), answer_limit);
  if (watchdog.expired()) co_return no_answer(method + " " + path);
  if (!response) co_return std::move(response).error();
  if (response->status >= 300) co_return agent_error(*response);
  co_return std::move(response->body);
}

asio::awaitable<Result<void>> GuestClient::wait_ready(milliseconds timeout) {
  const auto deadline = SteadyClock::now() + timeout;
  asio::steady_timer pause(co_await asio::this_coro::executor);
  for (;;) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - SteadyClock::now());
    if (left <= milliseconds(0)) co_return no_answer("GET /ready");
    const auto answer = co_await call("GET", "/ready", "", left);
    if (answer.ok()) co_return Result<void>{};
    // A booting guest refuses until the agent listens; one that stopped always will.
    if (answer.error().code != ErrorCode::unavailable || machine_->stopped()) co_return answer.error();
    pause.expires_after(retry_pause);
    asio::error_code ignored;
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
}

asio::awaitable<Result<void>> GuestClient::init(guest::InitRequest request, milliseconds timeout) {
  const auto answer = co_await call("POST", "/init", to_json(request), timeout);
  if (!answer.ok()) co_return answer.error();
  co_return Result<void>{};
}

asio::awaitable<Result<GuestClient::Outcome>> GuestClient::run(std::string command, std::string user,
                                                               milliseconds timeout) {
  JsonWriter json;
  json.begin_object().key("command").value(command).key("user").value(user);
  json.key("timeoutMs").value(timeout.count()).end_object();
  const auto answer = co_await call("POST", "/run", json.take(), timeout + std::chrono::seconds(5));
  if (!answer.ok()) co_return answer.error();
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  Outcome outcome;
  std::string_view output;
  if (parser.parse(*answer).get(document) != simdjson::SUCCESS ||
      document["exitCode"].get(outcome.exit_code) != simdjson::SUCCESS ||
      document["output"].get(output) != simdjson::SUCCESS)
    co_return make_error(ErrorCode::guest, "the guest's answer to POST /run makes no sense");
  outcome.output = output;
  co_return outcome;
}

asio::awaitable<Result<void>> GuestClient::sync(milliseconds timeout) {
  const auto answer = co_await call("POST", "/sync", "{}", timeout);
  if (!answer.ok()) co_return answer.error();
  co_return Result<void>{};
}

asio::awaitable<Result<Metric>> GuestClient::metrics(milliseconds timeout) {
  const auto answer = co_await call("GET", "/metrics", "", timeout);
  if (!answer.ok()) co_return answer.error();
  co_return parse_metric(*answer);
}

asio::awaitable<Result<std::vector<LogEntry>>> GuestClient::journal(
    std::chrono::system_clock::time_point since, milliseconds timeout) {
  const auto unix_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since.time_since_epoch());
  std::string path = "/journal?since=" + std::to_string(unix_ns.count());
  const auto answer = co_await call("GET", std::move(path), "", timeout, journal_limit);
  if (!answer.ok()) co_return answer.error();
  co_return parse_journal(*answer);
}

asio::awaitable<Result<void>> GuestClient::settle(milliseconds timeout) {
  const auto answer = co_await call("POST", "/settle", "{}", timeout);
  if (!answer.ok()) co_return answer.error();
  co_return Result<void>{};
}

asio::awaitable<Result<std::unique_ptr<Stream>>> GuestClient::open_port(std::uint16_t port,
                                                                        milliseconds timeout) {
  // envd is the agent itself: no detour over the guest's loopback.
  if (port == guest::envd_port) co_return co_await machine_->connect(guest::envd_port, timeout);

  auto opened = co_await machine_->connect(guest::tunnel_port, timeout);
  if (!opened) co_return std::move(opened).error();
  std::unique_ptr<Stream> stream = std::move(*opened);
  const auto executor = co_await asio::this_coro::executor;
  const http::Watchdog watchdog(executor, timeout, [&] { stream->close(); });
  const std::array<std::uint8_t, 2> wanted = {static_cast<std::uint8_t>(port & 0xff),
                                              static_cast<std::uint8_t>(port >> 8)};
  const auto sent = co_await stream->write(asio::buffer(wanted));
  if (!sent.ok()) co_return sent.error();
  std::uint8_t answer = 0;
  const auto count = co_await stream->read_some(asio::buffer(&answer, 1));
  if (watchdog.expired()) co_return no_answer("port " + std::to_string(port));
  if (!count.ok()) co_return count.error();
  if (*count == 0 || answer != static_cast<std::uint8_t>(guest::TunnelAnswer::connected))
    co_return make_error(ErrorCode::unavailable, "nothing listens there", "port " + std::to_string(port));
  co_return stream;
}

}  // namespace cube::node
