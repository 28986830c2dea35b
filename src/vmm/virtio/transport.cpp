#include "vmm/virtio/transport.hpp"

#include <algorithm>
#include <asio/post.hpp>
#include <cstring>

namespace cube::vmm::virtio {
namespace {

// Section 4.2.2, table 4.1.
enum Register : std::uint64_t {
  magic_value = 0x000,
  version = 0x004,
  device_id_register = 0x008,
  vendor_id = 0x00c,
  device_features_register = 0x010,
  device_features_select = 0x014,
  driver_features_register = 0x020,
  driver_features_select = 0x024,
  queue_select = 0x030,
  queue_size_max = 0x034,
  queue_size = 0x038,
  queue_ready = 0x044,
  queue_notify = 0x050,
  interrupt_status = 0x060,
  interrupt_acknowledge = 0x064,
  status_register = 0x070,
  queue_descriptors_low = 0x080,
  queue_descriptors_high = 0x084,
  queue_available_low = 0x090,
  queue_available_high = 0x094,
  queue_used_low = 0x0a0,
  queue_used_high = 0x0a4,
  shared_memory_length_low = 0x0b0,
  shared_memory_length_high = 0x0b4,
  shared_memory_base_low = 0x0b8,
  shared_memory_base_high = 0x0bc,
  config_generation = 0x0fc,
  config_space = 0x100,
};

constexpr std::uint32_t magic = 0x74726976;       // "virt"
constexpr std::uint32_t our_vendor = 0x45425543;  // "CUBE"
constexpr std::uint32_t no_shared_memory = 0xffffffff;

constexpr std::uint32_t interrupt_used_buffers = 1;
constexpr std::uint32_t interrupt_config_change = 2;

// Section 2.1.
constexpr std::uint32_t acknowledge = 1;
constexpr std::uint32_t driver = 2;
constexpr std::uint32_t driver_ok = 4;
constexpr std::uint32_t features_ok = 8;
constexpr std::uint32_t device_needs_reset = 64;
constexpr std::uint32_t driver_failed = 128;

constexpr std::uint32_t status_acknowledged = acknowledge;
constexpr std::uint32_t status_driver = status_acknowledged | driver;
constexpr std::uint32_t status_features_ok = status_driver | features_ok;
constexpr std::uint32_t status_running = status_features_ok | driver_ok;
constexpr std::array<std::uint32_t, 5> status_order = {0, status_acknowledged, status_driver,
                                                       status_features_ok, status_running};

void set_low(std::uint64_t& target, std::uint32_t value) { target = (target & ~0xffffffffull) | value; }
void set_high(std::uint64_t& target, std::uint32_t value) {
  target = (target & 0xffffffffull) | (std::uint64_t{value} << 32);
}

/// Half `select` of a 64-bit feature word; there is nothing beyond the second.
std::uint32_t half(std::uint64_t features, std::uint32_t select) {
  return select > 1 ? 0 : static_cast<std::uint32_t>(features >> (32 * select));
}

Error corrupt(std::string message) {
  return make_error(ErrorCode::corrupt, "virtio device state: " + std::move(message));
}

}  // namespace

Transport::Transport(Attachment attachment, asio::any_io_executor executor, std::uint32_t device_id,
                     std::uint64_t device_features, std::size_t queue_count)
    : attachment_(std::move(attachment)),
      executor_(std::move(executor)),
      device_id_(device_id),
      device_features_(device_features | feature_indirect_descriptors | feature_event_index |
                       feature_version_1),
      queues_(queue_count),
      queue_registers_(queue_count) {}

// --- Registers ---

void Transport::read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  if (offset >= config_space) {
    const std::lock_guard lock(mutex_);
    read_config(offset - config_space, data);
    return;
  }
  if (data.size() != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0) return;
  std::uint32_t value = 0;
  if (offset == interrupt_status) {
    value = interrupt_status_.load();
  } else {
    const std::lock_guard lock(mutex_);
    value = read_register(offset);
  }
  std::memcpy(data.data(), &value, sizeof value);
}

void Transport::copy_config(std::span<const std::byte> config, std::uint64_t offset,
                            std::span<std::byte> data) {
  if (offset >= config.size()) return;
  const auto part = config.subspan(offset, std::min<std::size_t>(data.size(), config.size() - offset));
  std::ranges::copy(part, data.begin());
}

void Transport::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset >= config_space) return;  // no device here has a field to write
  if (data.size() != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0) return;
  std::uint32_t value;
  std::memcpy(&value, data.data(), sizeof value);
  if (offset == queue_notify) {
    if (value < queues_.size()) schedule(value);
  } else if (offset == interrupt_acknowledge) {
    interrupt_status_.fetch_and(~value);
  } else {
    const std::lock_guard lock(mutex_);
    if (!failed_ && !shut_down_) write_register(offset, value);
  }
}

std::uint32_t Transport::read_register(std::uint64_t offset) const {
  const bool queue_exists = queue_select_ < queues_.size();
  switch (offset) {
    case magic_value: return magic;
    case version: return 2;
    case device_id_register: return device_id_;
    case vendor_id: return our_vendor;
    case device_features_register: return half(device_features_, device_features_select_);
    case queue_size_max: return queue_exists ? max_queue_size : 0;
    case queue_ready: return queue_exists && queue_registers_[queue_select_].ready ? 1 : 0;
    case status_register: return status_;
    case shared_memory_length_low:
    case shared_memory_length_high:
    case shared_memory_base_low:
    case shared_memory_base_high: return no_shared_memory;
    case config_generation: return config_generation_;
    default: return 0;
  }
}

void Transport::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case device_features_select: device_features_select_ = value; break;
    case driver_features_select: driver_features_select_ = value; break;
    case driver_features_register:
      if (status_ != status_driver) break;
      if (driver_features_select_ == 0) set_low(driver_features_, value);
      if (driver_features_select_ == 1) set_high(driver_features_, value);
      break;
    case queue_select: queue_select_ = value; break;
    case status_register: write_status(value); break;
    default: write_queue_register(offset, value);
  }
}

void Transport::write_queue_register(std::uint64_t offset, std::uint32_t value) {
  if (status_ != status_features_ok || queue_select_ >= queues_.size()) return;
  auto& [layout, ready] = queue_registers_[queue_select_];
  if (offset == queue_ready) ready = value == 1;
  if (ready) return;
  switch (offset) {
    // A size that does not fit is none, which cannot be activated.
    case queue_size: layout.size = value <= max_queue_size ? static_cast<std::uint16_t>(value) : 0; break;
    case queue_descriptors_low: set_low(layout.descriptors, value); break;
    case queue_descriptors_high: set_high(layout.descriptors, value); break;
    case queue_available_low: set_low(layout.available, value); break;
    case queue_available_high: set_high(layout.available, value); break;
    case queue_used_low: set_low(layout.used, value); break;
    case queue_used_high: set_high(layout.used, value); break;
    default: break;
  }
}

// --- Status ---

void Transport::write_status(std::uint32_t value) {
  if (value == 0) return reset();
  if (value == (status_ | driver_failed)) {
    status_ = value;
    return update_running();
  }
  const auto now = std::ranges::find(status_order, status_);
  if (now == status_order.end() || now + 1 == status_order.end() || value != *(now + 1)) return;
  switch (value) {
    case status_features_ok: return accept_features();
    case status_running: return activate();
    default: status_ = value;
  }
}

void Transport::reset() {
  status_ = 0;
  running_ = false;
  for (Queue& queue : queues_) queue.deactivate();
  std::ranges::fill(queue_registers_, QueueRegisters{});
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  driver_features_ = 0;
  interrupt_status_ = 0;
  kicked_ = 0;
  was_reset();
}

void Transport::accept_features() {
  if ((driver_features_ & feature_version_1) == 0) return need_reset();
  // Section 2.2.2: a driver that took what was not offered finds FEATURES_OK still unset.
  if ((driver_features_ & ~device_features_) == 0) status_ = status_features_ok;
}

void Transport::activate() {
  const std::vector<Queue::Position> positions(queues_.size());
  if (!activate_queues(positions).ok()) return need_reset();
  status_ = status_running;
  update_running();
  activated();
  schedule_all();
}

Result<void> Transport::activate_queues(const std::vector<Queue::Position>& positions) {
  const bool event_index = (driver_features_ & feature_event_index) != 0;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const auto& [layout, ready] = queue_registers_[i];
    if (!ready) continue;
    auto done = queues_[i].activate(attachment_.memory, layout, event_index, positions[i]);
    if (done.ok()) continue;
    for (Queue& queue : queues_) queue.deactivate();
    return done;
  }
  return {};
}

void Transport::need_reset() {
  status_ |= device_needs_reset;
  update_running();
  interrupt(interrupt_config_change);
}

void Transport::update_running() { running_ = status_ == status_running && !quiesced_ && !failed_; }

// --- Draining ---

void Transport::schedule(std::size_t queue) {
  kicked_.fetch_or(1ull << queue);
  post_drain();
}

void Transport::schedule_all() {
  kicked_.fetch_or((1ull << queues_.size()) - 1);
  post_drain();
}

void Transport::post_drain() {
  if (shut_down_ || drain_posted_.exchange(true)) return;
  asio::post(executor_, [self = shared_from_this()] { self->run_drain(); });
}

void Transport::run_drain() {
  const std::lock_guard lock(mutex_);
  if (running_) drain_queues();
  check_memory();
  // In this order: a kick that saw a drain posted set its bit before. While the device does not run the bits
  // stay for `resume` or DRIVER_OK.
  drain_posted_ = false;
  if (running_ && kicked_ != 0) post_drain();
}

void Transport::drain_queues() {
  const std::uint64_t kicked = kicked_.exchange(0);
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    if ((kicked >> i & 1) == 0 || !queues_[i].active()) continue;
    const auto unfinished = drain(i, max_queue_size);
    if (!unfinished) fail(unfinished.error());
    if (!running_) return;
    if (*unfinished) kicked_.fetch_or(1ull << i);
  }
}

Result<bool> Transport::serve_requests(std::size_t index, std::size_t budget, const RequestHandler& handle) {
  Queue& queue = queues_[index];
  queue.disable_kicks();
  do {
    for (;;) {
      if (budget-- == 0 || drain_interrupted_) return true;
      const auto popped = queue.pop(chain_);
      if (!popped) return popped.error();
      if (!*popped) break;
      const auto written = handle(chain_);
      if (!written) return written.error();
      queue.push(chain_.head, *written);
      notify_driver(index);
    }
  } while (queue.enable_kicks());
  return false;
}

// --- To the driver and the machine ---

void Transport::interrupt(std::uint32_t reason) {
  if (shut_down_) return;
  interrupt_status_.fetch_or(reason);
  if (attachment_.raise_interrupt) attachment_.raise_interrupt();
}

void Transport::notify_driver(std::size_t queue) {
  if (queues_[queue].needs_interrupt()) interrupt(interrupt_used_buffers);
}

void Transport::notify_config_change() {
  ++config_generation_;
  if ((status_ & driver_ok) != 0) interrupt(interrupt_config_change);
}

void Transport::fail(Error error) {
  if (failed_ || shut_down_) return;
  failed_ = true;
  need_reset();
  if (attachment_.on_error) attachment_.on_error(std::move(error));
}

void Transport::check_memory() {
  if (memory().damaged()) fail(make_error(ErrorCode::corrupt, "guest memory is damaged"));
}

// --- Pause and the end ---

void Transport::quiesce() {
  drain_interrupted_ = true;
  const std::lock_guard lock(mutex_);
  drain_interrupted_ = false;
  if (std::exchange(quiesced_, true)) return;
  update_running();
  device_quiesce();
}

void Transport::resume() {
  const std::lock_guard lock(mutex_);
  if (shut_down_ || !std::exchange(quiesced_, false)) return;
  update_running();
  device_resume();
  if (!running_) return;
  // What was kicked or signalled around a snapshot is not part of it.
  schedule_all();
  if (interrupt_status_ != 0) interrupt(0);
}

void Transport::shut_down() {
  quiesce();
  const std::lock_guard lock(mutex_);
  if (shut_down_.exchange(true)) return;
  if (!std::exchange(quiesced_, true)) {  // resumed meanwhile
    update_running();
    device_quiesce();
  }
  for (Queue& queue : queues_) queue.deactivate();
  device_shut_down();
}

// --- State ---

std::string Transport::save() const {
  const std::lock_guard lock(mutex_);
  StateWriter writer;
  writer.put(device_id_).put(status_).put(driver_features_).put(interrupt_status_.load());
  writer.put(device_features_select_).put(driver_features_select_).put(queue_select_);
  writer.put(config_generation_).put(static_cast<std::uint32_t>(queues_.size()));
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const auto& [layout, ready] = queue_registers_[i];
    const Queue::Position position = queues_[i].position();
    writer.put(std::uint8_t{ready}).put(layout.size).put(layout.descriptors).put(layout.available);
    writer.put(layout.used).put(position.next_available).put(position.next_used).put(position.signalled_used);
  }
  return writer.put_bytes(save_device()).take();
}

Result<void> Transport::restore(std::string_view state) {
  const std::lock_guard lock(mutex_);
  if (!quiesced_ || shut_down_) return make_error(ErrorCode::internal, "restore of a device that runs");
  reset();
  auto done = read_state(state);
  if (!done.ok())
    reset();
  else if (status_ == status_running)
    activated();
  return done;
}

Result<void> Transport::read_state(std::string_view state) {
  StateReader reader(state);
  std::uint32_t id = 0, status = 0, interrupts = 0, queue_count = 0;
  CUBE_TRY(reader.get(id));
  CUBE_TRY(reader.get(status));
  CUBE_TRY(reader.get(driver_features_));
  CUBE_TRY(reader.get(interrupts));
  CUBE_TRY(reader.get(device_features_select_));
  CUBE_TRY(reader.get(driver_features_select_));
  CUBE_TRY(reader.get(queue_select_));
  CUBE_TRY(reader.get(config_generation_));
  CUBE_TRY(reader.get(queue_count));
  if (id != device_id_ || queue_count != queues_.size()) return corrupt("of another device");

  const std::uint32_t reached = status & ~(device_needs_reset | driver_failed);
  if (std::ranges::find(status_order, reached) == status_order.end()) return corrupt("an impossible status");
  if ((interrupts & ~(interrupt_used_buffers | interrupt_config_change)) != 0)
    return corrupt("an unknown interrupt");
  if ((reached & features_ok) != 0 &&
      ((driver_features_ & ~device_features_) != 0 || (driver_features_ & feature_version_1) == 0))
    return corrupt("features that were not offered");

  const auto positions = read_queues(reader);
  if (!positions) return positions.error();
  const auto device = reader.get_bytes();
  if (!device) return device.error();
  if (!reader.at_end()) return corrupt("bytes past its end");

  if (status == status_running)
    if (const auto done = activate_queues(*positions); !done.ok()) return corrupt(done.error().describe());
  CUBE_TRY(restore_device(*device));
  status_ = status;
  interrupt_status_ = interrupts;
  return {};
}

Result<std::vector<Queue::Position>> Transport::read_queues(StateReader& reader) {
  std::vector<Queue::Position> positions(queues_.size());
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    auto& [layout, ready] = queue_registers_[i];
    Queue::Position& position = positions[i];
    std::uint8_t flag = 0;
    CUBE_TRY(reader.get(flag));
    CUBE_TRY(reader.get(layout.size));
    CUBE_TRY(reader.get(layout.descriptors));
    CUBE_TRY(reader.get(layout.available));
    CUBE_TRY(reader.get(layout.used));
    CUBE_TRY(reader.get(position.next_available));
    CUBE_TRY(reader.get(position.next_used));
    CUBE_TRY(reader.get(position.signalled_used));
    const auto in_flight = static_cast<std::uint16_t>(position.next_available - position.next_used);
    if (flag > 1 || layout.size > max_queue_size || in_flight > layout.size)
      return corrupt("an impossible queue");
    ready = flag == 1;
  }
  return positions;
}

}  // namespace cube::vmm::virtio
