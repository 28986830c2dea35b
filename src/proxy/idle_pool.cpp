#include "proxy/idle_pool.hpp"

#include <algorithm>

namespace cube::proxy {

std::optional<http::ClientConnection> IdlePool::take(const std::string& sandbox_id, std::uint64_t incarnation,
                                                     std::uint16_t port) {
  std::erase_if(idle_, [&](const Idle& idle) {
    return idle.sandbox_id == sandbox_id && idle.incarnation != incarnation;
  });
  for (auto idle = idle_.end(); idle != idle_.begin();) {
    --idle;
    if (idle->port != port || idle->sandbox_id != sandbox_id) continue;
    http::ClientConnection connection = std::move(idle->connection);
    idle = idle_.erase(idle);
    if (connection.reusable()) return connection;
  }
  return std::nullopt;
}

void IdlePool::put(const std::string& sandbox_id, std::uint64_t incarnation, std::uint16_t port,
                   http::ClientConnection connection) {
  if (!connection.reusable()) return;
  make_room(sandbox_id, port);
  idle_.push_back({sandbox_id, incarnation, port, std::move(connection), std::chrono::steady_clock::now()});
  if (!expiring_) expire_later();
}

void IdlePool::drop(const std::string& sandbox_id) {
  std::erase_if(idle_, [&](const Idle& idle) { return idle.sandbox_id == sandbox_id; });
}

void IdlePool::make_room(const std::string& sandbox_id, std::uint16_t port) {
  const auto same = [&](const Idle& idle) { return idle.port == port && idle.sandbox_id == sandbox_id; };
  if (static_cast<std::size_t>(std::ranges::count_if(idle_, same)) >= most_per_port)
    idle_.erase(std::ranges::find_if(idle_, same));
  if (idle_.size() >= most) idle_.pop_front();
}

void IdlePool::expire_later() {
  expiring_ = true;
  expiry_.expires_at(idle_.front().since + longest_idle);
  expiry_.async_wait([weak = weak_from_this()](const asio::error_code& cancelled) {
    const auto self = weak.lock();
    if (cancelled || !self) return;
    self->expiring_ = false;
    const auto oldest = std::chrono::steady_clock::now() - longest_idle;
    std::erase_if(self->idle_,
                  [&](const Idle& idle) { return idle.since <= oldest || !idle.connection.reusable(); });
    if (!self->idle_.empty()) self->expire_later();
  });
}

}  // namespace cube::proxy
