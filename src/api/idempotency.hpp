// Idempotency-Key: a create that is sent again, because nobody knows whether the first one arrived, makes no
// second sandbox.
//
// Keys are in the daemon's memory: after a restart a key is new again, as are running sandboxes. Only
// successes are kept; what failed made nothing, and may be tried again.
#pragma once

#include <chrono>
#include <cstddef>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "api/answer.hpp"

namespace cube::api {

class IdempotencyKeys {
 public:
  static constexpr std::size_t most_keys = 1024;
  static constexpr std::size_t most_bytes = 8 << 20;  ///< of bodies and answers
  static constexpr std::chrono::hours lifetime{24};   ///< of the longest-lived sandbox
  using Moment = std::chrono::steady_clock::time_point;

  /// The one request that has a key. Without keep() its key is free again when this goes.
  class Attempt {
   public:
    Attempt(Attempt&& other) noexcept
        : keys_(std::exchange(other.keys_, nullptr)), key_(std::move(other.key_)) {}
    Attempt& operator=(Attempt&&) = delete;
    ~Attempt();

    /// Whoever comes with this key and the same body from now on gets this answer.
    void keep(const Answer& answer, Moment now);

   private:
    friend class IdempotencyKeys;
    Attempt(IdempotencyKeys& keys, std::string key) : keys_(&keys), key_(std::move(key)) {}
    IdempotencyKeys* keys_;
    std::string key_;
  };

  /// To go on, or what to answer instead: what was answered before, 409 while the first is at work, 422 for
  /// another body, 400 for what is no key, 429 with too many at work.
  std::variant<Attempt, Answer> begin(std::string_view key, std::string_view body, Moment now);

  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string key;
    std::string body;
    std::optional<Answer> answer;  ///< none: at work
    Moment since;                  ///< when it was answered

    std::size_t bytes() const { return key.size() + body.size() + (answer ? answer->body.size() : 0); }
  };
  using Entries = std::list<Entry>;

  Entries::iterator find(std::string_view key);
  void forget(Entries::iterator entry);
  bool make_room(std::size_t bytes);

  Entries entries_;  ///< oldest first
  std::size_t bytes_ = 0;
};

}  // namespace cube::api
