// proxy: carries data-plane requests into sandboxes (CubeProxy in CubeSandbox).
//
// A request belongs to a sandbox if it has the headers E2b-Sandbox-Id and E2b-Sandbox-Port, or a Host of the
// form "{port}-{id}[-suffix].domain", or a path of the form "/sandbox/{id}/{port}/…", or is a signed URL of
// one of its files. The decision is made for each request: one connection mixes sandboxes and REST.
#pragma once

#include <cube/http.hpp>
#include <cube/node.hpp>

namespace cube::proxy {

struct Settings {
  /// Requests on their way into one sandbox at a time, WebSockets included; more are 429. Below what its
  /// vsock device holds (4096), so that the daemon itself still reaches its agent.
  std::size_t connections_per_sandbox = 2048;

  /// Signatures computed a second to find out whose a signed URL without a sandbox's id is; beyond that they
  /// are 429.
  std::size_t signatures_per_second = 100'000;

  /// Of the connections into guests.
  http::Limits guest_limits;
};

/// Routes to the sandbox named by the request, or to `otherwise` if it names none.
http::Handler make_handler(asio::any_io_executor loop, node::Sandboxes& sandboxes, http::Handler otherwise,
                           Settings settings = {});

}  // namespace cube::proxy
