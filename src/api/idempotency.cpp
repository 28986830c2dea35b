#include "api/idempotency.hpp"

#include <algorithm>

namespace cube::api {
namespace {

constexpr std::size_t longest_key = 255;

bool is_key(std::string_view text) {
  return !text.empty() && text.size() <= longest_key && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

// SDKs ask again for this one alone: by then there is a sandbox to hand out.
Answer in_progress() {
  Answer answer =
      problem(409, "a request with this Idempotency-Key is in progress", "idempotency_in_progress");
  answer.headers.add("Should-Retry", "true");
  answer.headers.add("Retry-After", "1");
  return answer;
}

}  // namespace

std::variant<IdempotencyKeys::Attempt, Answer> IdempotencyKeys::begin(std::string_view key,
                                                                      std::string_view body, Moment now) {
  if (!is_key(key))
    return problem(400,
                   "validation error: header 'Idempotency-Key' has 1 to 255 characters of a-z, 0-9 and '-'");
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (entry->answer && now - entry->since >= lifetime) forget(entry);
    entry = next;
  }
  if (const auto entry = find(key); entry != entries_.end()) {
    if (entry->body != body)
      return problem(422, "this Idempotency-Key came with another request before",
                     "idempotency_request_mismatch");
    return entry->answer ? *entry->answer : in_progress();
  }
  if (!make_room(key.size() + body.size()))
    return problem(429, "too many requests with an Idempotency-Key are in progress");
  entries_.push_back({std::string(key), std::string(body), std::nullopt, now});
  bytes_ += entries_.back().bytes();
  return Attempt(*this, std::string(key));
}

/// The oldest that are answered give way; those at work never do.
bool IdempotencyKeys::make_room(std::size_t bytes) {
  while (entries_.size() >= most_keys || bytes_ + bytes > most_bytes) {
    const auto oldest =
        std::ranges::find_if(entries_, [](const Entry& entry) { return entry.answer.has_value(); });
    if (oldest == entries_.end()) return false;
    forget(oldest);
  }
  return true;
}

IdempotencyKeys::Entries::iterator IdempotencyKeys::find(std::string_view key) {
  return std::ranges::find(entries_, key, &Entry::key);
}

void IdempotencyKeys::forget(Entries::iterator entry) {
  bytes_ -= entry->bytes();
  entries_.erase(entry);
}

void IdempotencyKeys::Attempt::keep(const Answer& answer, Moment now) {
  const auto entry = keys_->find(key_);
  entry->answer = answer;
  entry->since = now;
  keys_->bytes_ += answer.body.size();
  keys_ = nullptr;
}

IdempotencyKeys::Attempt::~Attempt() {
  if (keys_ != nullptr) keys_->forget(keys_->find(key_));
}

}  // namespace cube::api
