#include "proxy/idle_pool.hpp"

#include <algorithm>

namespace cube::proxy {

/// Out of the list; whoever calls takes it out of its sandbox's, too.
template <class Condition>
void IdlePool::remove_if(std::vector<Position>& of_sandbox, Condition condition) {
  std::erase_if(of_sandbox, [&](Position idle) {
    if (!condition(*idle)) return false;
    idle_.erase(idle);
    return true;
  });
}

void IdlePool::remove(Position idle) {
  const auto entry = by_sandbox_.find(*idle->sandbox_id);
  std::erase(entry->second, idle);
  if (entry->second.empty()) by_sandbox_.erase(entry);
  idle_.erase(idle);
}

std::optional<http::ClientConnection> IdlePool::take(const std::string& sandbox_id, std::uint64_t incarnation,
                                                     std::uint16_t port) {
  const auto entry = by_sandbox_.find(sandbox_id);
  if (entry == by_sandbox_.end()) return std::nullopt;
  std::vector<Position>& waiting = entry->second;
  // A sandbox's entry stays when its last connection is taken: most of the time that one comes back.
  remove_if(waiting, [&](const Idle& idle) { return idle.incarnation != incarnation; });
  for (std::size_t i = waiting.size(); i-- > 0;) {
    if (waiting[i]->port != port) continue;
    http::ClientConnection connection = std::move(waiting[i]->connection);
    idle_.erase(waiting[i]);
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(i));
    if (connection.reusable()) return connection;
  }
  return std::nullopt;
}

void IdlePool::put(const std::string& sandbox_id, std::uint64_t incarnation, std::uint16_t port,
                   http::ClientConnection connection) {
  if (!connection.reusable()) return;
  make_room(sandbox_id, port);
  auto& [key, waiting] = *by_sandbox_.try_emplace(sandbox_id).first;
  idle_.push_back({&key, incarnation, port, std::move(connection), std::chrono::steady_clock::now()});
  waiting.push_back(std::prev(idle_.end()));
  if (!expiring_) expire_later();
}

void IdlePool::drop(const std::string& sandbox_id) {
  const auto entry = by_sandbox_.find(sandbox_id);
  if (entry == by_sandbox_.end()) return;
  for (const Position idle : entry->second) idle_.erase(idle);
  by_sandbox_.erase(entry);
}

void IdlePool::make_room(const std::string& sandbox_id, std::uint16_t port) {
  if (const auto entry = by_sandbox_.find(sandbox_id); entry != by_sandbox_.end()) {
    const auto same = [&](Position idle) { return idle->port == port; };
    const auto& waiting = entry->second;
    if (static_cast<std::size_t>(std::ranges::count_if(waiting, same)) >= most_per_port)
      remove(*std::ranges::find_if(waiting, same));
  }
  if (idle_.size() >= most) remove(idle_.begin());
}

void IdlePool::expire_later() {
  expiring_ = true;
  expiry_.expires_at(idle_.front().since + longest_idle);
  expiry_.async_wait([weak = weak_from_this()](const asio::error_code& cancelled) {
    const auto self = weak.lock();
    if (cancelled || !self) return;
    self->expiring_ = false;
    const auto oldest = std::chrono::steady_clock::now() - longest_idle;
    for (auto& [id, waiting] : self->by_sandbox_)
      self->remove_if(waiting,
                      [&](const Idle& idle) { return idle.since <= oldest || !idle.connection.reusable(); });
    std::erase_if(self->by_sandbox_, [](const auto& entry) { return entry.second.empty(); });
    if (!self->idle_.empty()) self->expire_later();
  });
}

}  // namespace cube::proxy
