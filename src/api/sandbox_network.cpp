// The call about a sandbox's network.
#include "api/actions.hpp"
#include "api/network_request.hpp"

namespace cube::api {

Answering set_sandbox_network(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  auto rules = parse_network_update(call.body);
  // Whether it is there comes before what is not supported of it.
  const auto info = context.sandboxes.get(*id);
  if (!info.ok() && (rules.ok() || rules.error().code == ErrorCode::unimplemented))
    co_return sandbox_problem(*id, info.error());
  if (!rules.ok()) co_return problem_of(rules.error());
  auto set = co_await context.sandboxes.set_egress(*id, std::move(*rules));
  if (!set.ok()) co_return sandbox_problem(*id, set.error());
  co_return no_content();
}

}  // namespace cube::api
