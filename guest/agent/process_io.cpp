#include "process_io.hpp"

#include <algorithm>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

namespace cube::agent {
namespace {

constexpr auto never = asio::steady_timer::time_point::max();

/// Until the timer expires or is cancelled; which of them, the caller's condition tells.
asio::awaitable<void> wait(asio::steady_timer& timer) {
  asio::error_code cancelled;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
}

}  // namespace

Subscription::Subscription(std::shared_ptr<Broadcast> source)
    : source_(std::move(source)), changed_(source_->room_.get_executor()) {
  source_->subscribers_.push_back(this);
}

Subscription::~Subscription() {
  std::erase(source_->subscribers_, this);
  source_->room_may_have_changed();
}

asio::awaitable<Subscription::Next> Subscription::next(Deadline deadline) {
  for (;;) {
    if (closed_) co_return Next{Next::Kind::closed, nullptr};
    if (std::chrono::steady_clock::now() >= deadline) co_return Next{Next::Kind::timeout, nullptr};
    if (!events_.empty()) break;
    if (source_->finished_) co_return Next{Next::Kind::finished, nullptr};
    changed_.expires_at(deadline);
    co_await wait(changed_);
  }
  Event event = std::move(events_.front());
  events_.pop_front();
  bytes_ -= event->size();
  source_->room_may_have_changed();
  const bool last = source_->finished_ && events_.empty();
  co_return Next{last ? Next::Kind::last : Next::Kind::event, std::move(event)};
}

void Subscription::close() {
  closed_ = true;
  events_.clear();
  bytes_ = 0;
  changed_.cancel();
  source_->room_may_have_changed();
}

Broadcast::Broadcast(asio::any_io_executor loop) : room_(std::move(loop), never) {}

std::unique_ptr<Subscription> Broadcast::subscribe() {
  return std::make_unique<Subscription>(shared_from_this());
}

void Broadcast::publish(std::string event) {
  if (subscribers_.empty()) return;
  const auto shared = std::make_shared<const std::string>(std::move(event));
  for (Subscription* subscriber : subscribers_) {
    if (subscriber->closed_) continue;
    subscriber->events_.push_back(shared);
    subscriber->bytes_ += shared->size();
    subscriber->changed_.cancel();
  }
}

void Broadcast::finish(std::string event) {
  publish(std::move(event));
  finished_ = true;
}

bool Broadcast::has_room() const {
  return valve_open_ ||
         std::ranges::none_of(subscribers_, [](const Subscription* one) { return one->full(); });
}

asio::awaitable<void> Broadcast::wait_for_room() {
  while (!has_room()) co_await wait(room_);
}

void Broadcast::open_valve() {
  valve_open_ = true;
  room_may_have_changed();
}

InputWriter::InputWriter(asio::any_io_executor loop, std::shared_ptr<Descriptor> descriptor)
    : descriptor_(std::move(descriptor)), turn_(std::move(loop), never) {}

asio::awaitable<Result<void>> InputWriter::write(std::string bytes) {
  if (waiting_ > 0 && waiting_ + bytes.size() > waiting_limit)
    co_return make_error(
        ErrorCode::resource_exhausted,
        std::to_string(waiting_) + " bytes of input wait already for the process to read them");
  waiting_ += bytes.size();
  const auto ticket = next_ticket_++;
  while (ticket != serving_) co_await wait(turn_);
  const auto descriptor = descriptor_;
  asio::error_code error = asio::error::bad_descriptor;
  if (descriptor)
    co_await asio::async_write(*descriptor, asio::buffer(bytes),
                               asio::redirect_error(asio::use_awaitable, error));
  waiting_ -= bytes.size();
  ++serving_;
  turn_.cancel();
  if (error) co_return make_error(ErrorCode::invalid_argument, "the process does not read input any more");
  co_return Result<void>{};
}

void InputWriter::close() {
  if (!descriptor_) return;
  asio::error_code ignored;
  descriptor_->close(ignored);
  descriptor_.reset();
}

}  // namespace cube::agent
