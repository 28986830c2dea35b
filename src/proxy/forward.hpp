// Forwarding: one request into a sandbox, over a connection that waits or a new one.
#pragma once

#include <cube/http.hpp>
#include <cube/node.hpp>
#include <memory>

#include "proxy/connection_count.hpp"
#include "proxy/idle_pool.hpp"
#include "proxy/target.hpp"

namespace cube::proxy {

struct Gateway {
  node::Sandboxes& sandboxes;
  std::shared_ptr<IdlePool> pool;
  std::shared_ptr<ConnectionCount> count;
  http::Limits guest_limits;
};

/// `place` is kept until the exchange is over.
asio::awaitable<void> forward(std::shared_ptr<const Gateway> gateway, http::Exchange& exchange, Target target,
                              ConnectionCount::Place place);

}  // namespace cube::proxy
