// api: E2B's REST control API, and cubed's own template endpoints beside it (CubeAPI in CubeSandbox).
//
// Turns HTTP into calls of node::Sandboxes and templates::Templates, and their errors into E2B's bodies. A
// field the node cannot honour yet is refused with 400 or 501, never ignored.
#pragma once

#include <cube/http.hpp>
#include <cube/node.hpp>
#include <cube/template.hpp>
#include <string>

namespace cube::api {

struct Settings {
  std::string api_key;  ///< empty: no key is asked for (--no-auth)
  std::string domain;   ///< what SDKs build host names from; empty: left out

  /// Where POST /templates/images finds root file system images; empty: it answers 501.
  std::string image_directory;
};

/// Answers every request that the proxy does not take. The references must outlive the handler.
http::Handler make_handler(Settings settings, node::Sandboxes& sandboxes, templates::Templates& templates);

}  // namespace cube::api
