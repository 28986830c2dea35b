#include "agent.hpp"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <cube/guest.hpp>

#include "boot.hpp"
#include "tunnel.hpp"

namespace cube::agent {

Result<std::unique_ptr<Agent>> Agent::create(asio::io_context& loop, Role role) {
  const bool machine = role == Role::machine;
  const auto scope = machine ? Children::Scope::every_child : Children::Scope::own_children;
  auto children = Children::create(loop.get_executor(), scope, machine ? user_cgroup : "");
  if (!children && machine) {
    log(LogLevel::warning, "agent", children.error().describe());
    children = Children::create(loop.get_executor(), scope);
  }
  if (!children) return std::move(children).error();
  return std::unique_ptr<Agent>(new Agent(loop, role, std::move(*children)));
}

Agent::Agent(asio::io_context& loop, Role role, std::unique_ptr<Children> children)
    : loop_(loop.get_executor()),
      children_(std::move(children)),
      processes_(add_process_service(router_, loop_, *children_, settings_, journal_)),
      filesystem_(add_filesystem_service(router_, loop_, settings_)),
      envd_(router_, settings_),
      control_(loop_, role, *children_, settings_, journal_,
               [&loop, role] { role == Role::machine ? shut_down() : loop.stop(); }),
      envd_server_(loop_, [this](http::Exchange& exchange) { return envd_.serve(exchange); }),
      control_server_(loop_, [this](http::Exchange& exchange) { return control_.serve(exchange); }) {}

Agent::~Agent() {
  asio::error_code ignored;
  if (tunnel_acceptor_) tunnel_acceptor_->close(ignored);
}

Result<void> Agent::listen_on_vsock(std::uint32_t port, VsockListener::OnConnection on_connection) {
  auto listener = VsockListener::listen(loop_, port, std::move(on_connection));
  if (!listener) return std::move(listener).error();
  listeners_.push_back(std::move(*listener));
  return {};
}

Result<void> Agent::listen_on_vsock() {
  CUBE_TRY(listen_on_vsock(guest::envd_port, [this](std::unique_ptr<Stream> connection) {
    envd_server_.serve(std::move(connection), "vsock");
  }));
  CUBE_TRY(listen_on_vsock(guest::tunnel_port, [this](std::unique_ptr<Stream> connection) {
    asio::co_spawn(loop_, serve_tunnel(std::move(connection)), asio::detached);
  }));
  CUBE_TRY(listen_on_vsock(guest::control_port, [this](std::unique_ptr<Stream> connection) {
    control_server_.serve(std::move(connection), "vsock");
  }));
  return {};
}

Result<std::uint16_t> Agent::listen_envd(const std::string& address, std::uint16_t port) {
  return envd_server_.listen(address, port);
}

Result<std::uint16_t> Agent::listen_control(const std::string& address, std::uint16_t port) {
  return control_server_.listen(address, port);
}

Result<std::uint16_t> Agent::listen_tunnel(const std::string& address, std::uint16_t port) {
  asio::error_code error;
  const auto ip = asio::ip::make_address(address, error);
  if (error) return make_error(ErrorCode::invalid_argument, "not an IP address", address);
  auto acceptor = std::make_shared<asio::ip::tcp::acceptor>(loop_);
  const asio::ip::tcp::endpoint endpoint(ip, port);
  acceptor->open(endpoint.protocol(), error);
  if (!error) acceptor->bind(endpoint, error);
  if (!error) acceptor->listen(asio::socket_base::max_listen_connections, error);
  if (error) return os_error(error.value(), "cannot listen", address + ":" + std::to_string(port));
  tunnel_acceptor_ = acceptor;
  asio::co_spawn(loop_, accept_tunnels(acceptor), asio::detached);
  return acceptor->local_endpoint().port();
}

asio::awaitable<void> Agent::accept_tunnels(std::shared_ptr<asio::ip::tcp::acceptor> acceptor) {
  for (;;) {
    asio::error_code error;
    asio::ip::tcp::socket socket =
        co_await acceptor->async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    asio::co_spawn(acceptor->get_executor(), serve_tunnel(http::make_tcp_stream(std::move(socket))),
                   asio::detached);
  }
}

void Agent::start_services(const std::string& directory, const std::string& logs) {
  supervisor_ = std::make_unique<Supervisor>(loop_, *children_, settings_, logs);
  supervisor_->start(directory);
}

}  // namespace cube::agent
