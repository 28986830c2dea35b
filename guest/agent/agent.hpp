// The agent put together: every service on one loop, and the ways to reach them.
#pragma once

#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <memory>
#include <string>
#include <vector>

#include "children.hpp"
#include "control.hpp"
#include "envd.hpp"
#include "journal.hpp"
#include "services.hpp"
#include "supervisor.hpp"
#include "vsock.hpp"

namespace cube::agent {

class Agent {
 public:
  static Result<std::unique_ptr<Agent>> create(asio::io_context& loop, Role role);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  /// The ports of cube/guest.hpp, and envd's on TCP.
  Result<void> listen_on_vsock();

  /// For tests on a host; port 0 takes any. Returns the port.
  Result<std::uint16_t> listen_envd(const std::string& address, std::uint16_t port);
  Result<std::uint16_t> listen_control(const std::string& address, std::uint16_t port);
  Result<std::uint16_t> listen_tunnel(const std::string& address, std::uint16_t port);

  void start_services(const std::string& directory, const std::string& logs);

  Settings& settings() { return settings_; }

 private:
  Agent(asio::io_context& loop, Role role, std::unique_ptr<Children> children);
  Result<void> listen_on_vsock(std::uint32_t port, VsockListener::OnConnection on_connection);
  static asio::awaitable<void> accept_tunnels(std::shared_ptr<asio::ip::tcp::acceptor> acceptor);

  asio::any_io_executor loop_;
  Settings settings_;
  Journal journal_;
  std::unique_ptr<Children> children_;
  Router router_;
  std::shared_ptr<ProcessService> processes_;
  std::shared_ptr<FilesystemService> filesystem_;
  Envd envd_;
  Control control_;
  std::unique_ptr<Supervisor> supervisor_;
  http::Server envd_server_;
  http::Server control_server_;
  std::vector<std::unique_ptr<VsockListener>> listeners_;
  std::shared_ptr<asio::ip::tcp::acceptor> tunnel_acceptor_;
};

}  // namespace cube::agent
