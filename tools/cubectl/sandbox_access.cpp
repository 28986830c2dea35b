#include "sandbox_access.hpp"

#include "json.hpp"
#include "rpc.hpp"

namespace cube::cubectl {

asio::awaitable<Result<Sandbox>> reach_sandbox(Client& client, std::string id, std::string user) {
  auto answer = co_await client.request("GET", "/sandboxes/" + url_encode(id));
  if (!answer) co_return std::move(answer).error();
  auto detail = JsonDocument::parse(answer->body);
  if (!detail) co_return std::move(detail).error();
  if (json_string(detail->root(), "state") == "paused") {
    auto resumed = co_await client.request("POST", "/v2/sandboxes/" + url_encode(id) + "/connect", "{}");
    if (!resumed) co_return std::move(resumed).error();
  }
  Sandbox sandbox;
  sandbox.id = json_string(detail->root(), "sandboxID");
  sandbox.access_token = json_string(detail->root(), "envdAccessToken");
  sandbox.user = std::move(user);
  if (sandbox.id.empty())
    co_return make_error(ErrorCode::unavailable, "the daemon's answer names no sandbox", id);
  co_return sandbox;
}

http::RequestHead agent_head(const Client& client, const Sandbox& sandbox, std::string method,
                             std::string path, std::string_view content_type) {
  constexpr const char* agent_port = "49983";
  http::RequestHead head = client.head(std::move(method), std::move(path));
  head.headers.add("E2b-Sandbox-Id", sandbox.id);
  head.headers.add("E2b-Sandbox-Port", agent_port);
  if (!sandbox.access_token.empty()) head.headers.add("X-Access-Token", sandbox.access_token);
  if (!sandbox.user.empty())
    head.headers.add("Authorization", "Basic " + agent::base64_encode(sandbox.user + ":"));
  if (!content_type.empty()) head.headers.add("Content-Type", content_type);
  return head;
}

asio::awaitable<Result<std::string>> call_agent(Client& client, const Sandbox& sandbox, std::string path,
                                                std::string json) {
  http::RequestHead head = agent_head(client, sandbox, "POST", std::move(path), "application/json");
  head.headers.add("Connect-Protocol-Version", "1");
  auto answer = co_await client.exchange(std::move(head), std::move(json));
  if (!answer) co_return std::move(answer).error();
  co_return std::move(answer->body);
}

}  // namespace cube::cubectl
