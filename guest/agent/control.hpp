// The daemon's side of the agent: the HTTP service on control_port (cube/guest.hpp).
#pragma once

#include <cube/http.hpp>
#include <functional>

#include "children.hpp"
#include "journal.hpp"
#include "settings.hpp"
#include "usage.hpp"

namespace cube::agent {

enum class Role {
  machine,       ///< process id 1: the whole machine is ours to set up and end
  test_on_host,  ///< a test on somebody's machine: settings change, the machine does not
};

class Control {
 public:
  /// `shut_down` is called after POST /shutdown was answered.
  Control(asio::any_io_executor loop, Role role, Children& children, Settings& settings,
          const Journal& journal, std::function<void()> shut_down);

  asio::awaitable<void> serve(http::Exchange& exchange);

 private:
  asio::awaitable<Result<void>> initialise(http::Exchange& exchange);
  asio::awaitable<Result<std::string>> run(http::Exchange& exchange);
  asio::awaitable<Result<void>> sync();

  asio::any_io_executor loop_;
  Role role_;
  Children& children_;
  Settings& settings_;
  const Journal& journal_;
  Usage usage_;
  std::function<void()> shut_down_;
};

}  // namespace cube::agent
