// ConnectionCount: how many requests are on their way into each sandbox, and no more of one than may be.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

namespace cube::proxy {

class ConnectionCount : public std::enable_shared_from_this<ConnectionCount> {
 public:
  explicit ConnectionCount(std::size_t limit) : limit_(limit) {}

  /// One of the sandbox's connections; it counts until this is destroyed.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept
        : count_(std::move(other.count_)), entry_(std::exchange(other.entry_, nullptr)) {}
    Place& operator=(Place&&) = delete;
    ~Place() {
      if (entry_ != nullptr && --entry_->second == 0)
        count_->in_use_.erase(count_->in_use_.find(entry_->first));
    }
    explicit operator bool() const { return entry_ != nullptr; }

   private:
    friend class ConnectionCount;
    using Entry = std::pair<const std::string, std::size_t>;
    Place(std::shared_ptr<ConnectionCount> count, Entry& entry) : count_(std::move(count)), entry_(&entry) {}

    std::shared_ptr<ConnectionCount> count_;
    Entry* entry_ = nullptr;  ///< elements of an unordered_map stay where they are
  };

  /// An empty place if the sandbox has as many as it may have.
  Place take(const std::string& sandbox_id) {
    auto& entry = *in_use_.try_emplace(sandbox_id, 0).first;
    if (entry.second >= limit_) return {};
    ++entry.second;
    return Place(shared_from_this(), entry);
  }

  std::size_t limit() const { return limit_; }
  std::size_t sandboxes() const { return in_use_.size(); }

 private:
  std::size_t limit_;
  std::unordered_map<std::string, std::size_t> in_use_;  ///< only those that have any
};

}  // namespace cube::proxy
