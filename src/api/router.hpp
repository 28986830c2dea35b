// The table of routes: method and path to what answers it.
//
// Matching is on the raw path: a template reference "team/name:tag" arrives as one segment,
// "team%2Fname%3Atag".
#pragma once

#include <asio/awaitable.hpp>
#include <cube/api.hpp>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer.hpp"
#include "api/idempotency.hpp"

namespace cube::api {

struct Context {
  Settings settings;
  node::Sandboxes& sandboxes;
  templates::Templates& templates;
  std::shared_ptr<IdempotencyKeys> idempotency_keys;
};

/// One request, routed.
struct Call {
  http::Exchange& exchange;
  std::vector<std::string> parameters;  ///< what stood for each {}, decoded
  std::string body;                     ///< empty for GET
};

/// Nothing: the action answered the exchange itself.
using Action = asio::awaitable<std::optional<Answer>> (*)(const Context&, Call&);

enum class Access { open, key, key_or_bearer };

struct Route {
  std::string_view method;
  std::string_view pattern;  ///< "/sandboxes/{}/timeout"
  Action action = nullptr;   ///< null: part of E2B's API that is not here yet
  Access access = Access::key;
};

struct Match {
  const Route* route = nullptr;              ///< null: nothing for this method
  std::vector<std::string_view> parameters;  ///< still encoded
  std::string allow;                         ///< methods the path has; empty: there is no such path
};

/// The first route that fits, HEAD counting as GET.
Match find_route(std::span<const Route> routes, std::string_view method, std::string_view path);

std::span<const Route> all_routes();

}  // namespace cube::api
