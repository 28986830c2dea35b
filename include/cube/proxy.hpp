// proxy: carries data-plane requests into sandboxes (CubeProxy in CubeSandbox).
//
// A request belongs to a sandbox if it has the headers E2b-Sandbox-Id and E2b-Sandbox-Port, or a Host of the
// form
// "{port}-{id}[-suffix].domain". The decision is made for each request: one connection mixes sandboxes and
// REST.
#pragma once

#include <cube/http.hpp>
#include <cube/node.hpp>

namespace cube::proxy {

/// Routes to the sandbox named by the request, or to `otherwise` if it names none.
http::Handler make_handler(asio::any_io_executor loop, node::Sandboxes& sandboxes, http::Handler otherwise);

}  // namespace cube::proxy
