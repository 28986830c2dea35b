// From a request to its answer: CORS, routing, the key, the body.
#include <algorithm>
#include <array>
#include <cube/api.hpp>

#include "api/actions.hpp"
#include "api/authentication.hpp"

namespace cube::api {
namespace {

constexpr std::size_t body_limit = 1 << 20;

Answer no_such_path(std::string_view method, std::string_view path) {
  std::string message = "there is no ";
  return problem(404, message.append(method).append(" ").append(path.substr(0, 200)).append(" in this API"));
}

Answer wrong_method(std::string_view method, std::string_view path, const std::string& allow) {
  std::string message(path.substr(0, 200));
  message.append(" does not take ").append(method).append("; it takes ").append(allow);
  Answer answer = problem(405, message);
  answer.headers.add("Allow", allow);
  return answer;
}

Answer options(const std::string& allow) {
  Answer answer = no_content();
  answer.headers.add("Allow", allow);
  answer.headers.add("Access-Control-Allow-Methods", allow);
  // "*" does not cover Authorization (Fetch standard, CORS protocol).
  answer.headers.add("Access-Control-Allow-Headers", "*, Authorization");
  answer.headers.add("Access-Control-Max-Age", "7200");
  return answer;
}

Answering dispatch(const Context& context, http::Exchange& exchange) {
  const http::RequestHead& request = exchange.request();
  const Match match = find_route(all_routes(), request.method, request.path());
  if (request.method == "OPTIONS") {
    if (request.target == "*") co_return options("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    if (!match.allow.empty()) co_return options(match.allow);
  }
  if (match.allow.empty()) co_return no_such_path(request.method, request.path());
  if (match.route == nullptr) co_return wrong_method(request.method, request.path(), match.allow);
  if (auto refused = check_access(context.settings, match.route->access, request.headers)) co_return refused;
  if (match.route->action == nullptr)
    co_return problem(501, std::string(match.route->method) + " " + std::string(match.route->pattern) +
                               " is not supported by this server yet");

  Call call{exchange, {}, {}};
  for (const std::string_view raw : match.parameters) {
    auto decoded = http::percent_decode(raw);
    if (!decoded) co_return problem(400, "malformed percent-encoding in the path");
    call.parameters.push_back(std::move(*decoded));
  }
  if (match.route->method != "GET") {
    auto body = co_await exchange.read_whole_body(body_limit);
    if (!body.ok() && body.error().code == ErrorCode::resource_exhausted)
      co_return problem(413, "the body exceeds 1 MiB");
    if (!body.ok() && body.error().code == ErrorCode::deadline_exceeded)
      co_return problem(408, body.error().message);
    if (!body.ok()) co_return problem_of(body.error());
    call.body = std::move(*body);
  }
  co_return co_await match.route->action(context, call);
}

asio::awaitable<void> handle(std::shared_ptr<const Context> context, http::Exchange& exchange) {
  std::optional<Answer> answer = co_await dispatch(*context, exchange);
  if (!answer) co_return;
  answer->headers.add("Access-Control-Allow-Origin", "*");
  answer->headers.add("Access-Control-Expose-Headers", "*");
  http::ResponseHead head{answer->status, std::move(answer->headers)};
  const auto sent = co_await exchange.respond(std::move(head), std::move(answer->body));
  static_cast<void>(sent);  // a client that is gone gets no answer
}

}  // namespace

http::Handler make_handler(Settings settings, node::Sandboxes& sandboxes, templates::Templates& templates) {
  const auto context = std::make_shared<const Context>(
      Context{std::move(settings), sandboxes, templates, std::make_shared<IdempotencyKeys>()});
  return [context](http::Exchange& exchange) { return handle(context, exchange); };
}

}  // namespace cube::api
