// envd: the HTTP service users reach on port 49983: plain routes, files and the RPC methods.
#pragma once

#include <asio/awaitable.hpp>
#include <cube/http.hpp>

#include "envd_init.hpp"
#include "metrics.hpp"
#include "rpc.hpp"
#include "settings.hpp"

namespace cube::agent {

class Envd {
 public:
  /// Both outlive the service.
  Envd(const Router& router, Settings& settings) : router_(router), settings_(settings) {}

  asio::awaitable<void> serve(http::Exchange& exchange);

 private:
  asio::awaitable<void> serve_route(http::Exchange& exchange);
  asio::awaitable<void> serve_init(http::Exchange& exchange);
  /// Of a request whose X-Access-Token is right, or of one for files with a valid signature.
  Result<void> check_access(const http::RequestHead& head) const;

  const Router& router_;
  Settings& settings_;
  EnvdInit init_;
  CpuUsage cpu_usage_;
};

/// Takes as long for every wrong token of a length as for the right one.
bool tokens_equal(std::string_view left, std::string_view right);

}  // namespace cube::agent
