#include "vmm/process/disk_socket.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>
#include <mutex>
#include <vector>

#include "vmm/process/sockets.hpp"
#include "vmm/virtio/queue.hpp"

namespace cube::vmm {
namespace {

constexpr std::uint64_t sector_bytes = 512;

/// In one packet: below what a Unix socket sends at once by default (net.core.wmem_default, 208 KiB).
constexpr std::size_t most_data = 128u << 10;

enum class Operation : std::uint32_t { read, write, flush };

struct Request {
  Operation operation;
  std::uint32_t bytes;
  std::uint64_t offset;
};

/// What the guest is told is only that it failed; the daemon's log has the reason.
enum class Reply : std::uint32_t { done, failed };

// --- In the machine's process ---

class RemoteDisk final : public BlockBackend {
 public:
  RemoteDisk(Fd socket, std::uint64_t capacity) : socket_(std::move(socket)), capacity_(capacity) {}

  std::uint64_t capacity_bytes() const override { return capacity_; }

  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    return in_pieces(offset, into, [this](std::uint64_t at, std::vector<iovec>& piece, std::uint32_t bytes) {
      return call({Operation::read, bytes, at}, {}, piece);
    });
  }
  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override {
    return in_pieces(offset, from, [this](std::uint64_t at, std::vector<iovec>& piece, std::uint32_t bytes) {
      return call({Operation::write, bytes, at}, piece, {});
    });
  }
  Result<void> flush() override { return call({Operation::flush, 0, 0}, {}, {}); }

 private:
  template <class Step>
  static Result<void> in_pieces(std::uint64_t offset, std::span<const iovec> buffers, Step step) {
    const std::vector<iovec> all(buffers.begin(), buffers.end());
    std::size_t length = 0;
    for (const iovec& buffer : all) length += buffer.iov_len;
    for (std::size_t done = 0; done < length; done += most_data) {
      const std::size_t bytes = std::min(most_data, length - done);
      auto piece = virtio::slice_buffers(all, done, bytes);
      CUBE_TRY(step(offset + done, piece, static_cast<std::uint32_t>(bytes)));
    }
    return {};
  }

  Result<void> call(Request request, std::vector<iovec> data_out, std::vector<iovec> data_in) {
    data_out.insert(data_out.begin(), buffer_of(request));
    if (send_message(socket_.get(), data_out) < 0) return os_error(errno, "cannot ask for the disk");
    Reply reply{};
    data_in.insert(data_in.begin(), buffer_of(reply));
    const std::size_t wanted =
        sizeof reply + (request.operation == Operation::read ? std::size_t{request.bytes} : 0);
    const ssize_t count = receive_message(socket_.get(), data_in);
    if (count >= static_cast<ssize_t>(sizeof reply) && reply == Reply::failed)
      return make_error(ErrorCode::unavailable, "the disk failed");
    if (count != static_cast<ssize_t>(wanted)) return make_error(ErrorCode::unavailable, "the disk is gone");
    return {};
  }

  Fd socket_;
  const std::uint64_t capacity_;
};

// --- In the daemon ---

class Server final : public DiskServer, public std::enable_shared_from_this<Server> {
 public:
  Server(const asio::any_io_executor& executor, Fd socket, std::shared_ptr<BlockBackend> backend,
         std::function<void()> on_violation)
      : socket_(executor, socket.release()),
        capacity_(backend->capacity_bytes() / sector_bytes * sector_bytes),
        on_violation_(std::move(on_violation)),
        backend_(std::move(backend)) {}

  void start() { asio::co_spawn(socket_.get_executor(), serve(shared_from_this()), asio::detached); }

  void open() override {
    const std::scoped_lock lock(mutex_);
    open_ = backend_ != nullptr;
  }
  void close() override {
    const std::scoped_lock lock(mutex_);
    open_ = false;
  }
  void retire() override {
    const std::scoped_lock lock(mutex_);
    open_ = false;
    backend_.reset();
  }

 private:
  static asio::awaitable<void> serve(std::shared_ptr<Server> self) {
    for (;;) {
      asio::error_code error;
      co_await self->socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                                        asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
      const Outcome outcome = self->serve_one();
      if (outcome == Outcome::violation) self->on_violation_();
      if (outcome != Outcome::served) co_return;
    }
  }

  enum class Outcome { served, ended, violation };

  Outcome serve_one() {
    // For the thread, not the machine: a request is through when this returns.
    static thread_local std::vector<std::byte> data(most_data);
    Request request{};
    std::array<iovec, 2> in = {buffer_of(request), iovec{data.data(), data.size()}};
    const ssize_t count = receive_message(socket_.native_handle(), in, nullptr, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return Outcome::served;
    if (count <= 0) return Outcome::ended;
    const std::size_t sent = request.operation == Operation::write ? request.bytes : 0;
    if (static_cast<std::size_t>(count) != sizeof request + sent || !is_sound(request))
      return Outcome::violation;
    iovec buffer{data.data(), request.bytes};
    Reply reply = Reply::done;
    {
      const std::scoped_lock lock(mutex_);
      if (!open_) return Outcome::violation;
      if (const auto done = execute(request, buffer); !done) {
        report(done.error());
        reply = Reply::failed;
      }
    }
    std::array<iovec, 2> out = {buffer_of(reply), buffer};
    const bool with_data = request.operation == Operation::read && reply == Reply::done;
    // It waits for the answer, so that there is room for it.
    const ssize_t answered =
        send_message(socket_.native_handle(), std::span(out).first(with_data ? 2 : 1), {}, MSG_DONTWAIT);
    return answered > 0 ? Outcome::served : Outcome::ended;
  }

  bool is_sound(const Request& request) const {
    if (request.operation == Operation::flush) return request.bytes == 0;
    return (request.operation == Operation::read || request.operation == Operation::write) &&
           request.bytes > 0 && request.bytes <= most_data && request.bytes % sector_bytes == 0 &&
           request.offset % sector_bytes == 0 && request.offset <= capacity_ &&
           request.bytes <= capacity_ - request.offset;
  }

  Result<void> execute(const Request& request, const iovec& buffer) {
    const std::span buffers(&buffer, 1);
    if (request.operation == Operation::flush) return backend_->flush();
    return request.operation == Operation::read ? backend_->read(request.offset, buffers)
                                                : backend_->write(request.offset, buffers);
  }

  /// A failing disk is the guest's to handle; the log hears of it once a second at most.
  void report(const Error& error) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_report_ < std::chrono::seconds(1)) return;
    last_report_ = now;
    log(LogLevel::error, "vmm", "a disk request failed", {{"error", error.describe()}});
  }

  asio::posix::stream_descriptor socket_;
  const std::uint64_t capacity_;
  const std::function<void()> on_violation_;
  std::chrono::steady_clock::time_point last_report_{};
  std::mutex mutex_;  ///< held while a request is served
  bool open_ = false;
  std::shared_ptr<BlockBackend> backend_;
};

}  // namespace

std::shared_ptr<BlockBackend> make_remote_disk(Fd socket, std::uint64_t capacity_bytes) {
  return std::make_shared<RemoteDisk>(std::move(socket), capacity_bytes);
}

Result<std::shared_ptr<DiskServer>> serve_disk(asio::any_io_executor executor, Fd socket,
                                               std::shared_ptr<BlockBackend> backend,
                                               std::function<void()> on_violation) {
  try {
    auto server =
        std::make_shared<Server>(executor, std::move(socket), std::move(backend), std::move(on_violation));
    server->start();
    return std::shared_ptr<DiskServer>(std::move(server));
  } catch (const asio::system_error& error) {
    return os_error(error.code().value(), "cannot watch a disk's socket");
  }
}

}  // namespace cube::vmm
