#include "standard_input.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>

namespace cube::cubectl {

Result<StandardInput> StandardInput::open(asio::any_io_executor loop) {
  StandardInput input;
  Fd watch(::epoll_create1(EPOLL_CLOEXEC));
  if (!watch) return os_error(errno, "cannot watch standard input");
  epoll_event wanted{};
  wanted.events = EPOLLIN;
  if (::epoll_ctl(watch.get(), EPOLL_CTL_ADD, 0, &wanted) == 0)
    input.readiness_.emplace(std::move(loop), watch.release());
  else if (errno != EPERM)  // EPERM: a regular file
    return os_error(errno, "cannot watch standard input");
  return input;
}

asio::awaitable<Result<std::string>> StandardInput::read(std::size_t limit) {
  if (readiness_) {
    asio::error_code error;
    co_await readiness_->async_wait(asio::posix::descriptor_base::wait_read,
                                    asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return os_error(error.value(), "cannot wait for standard input");
  }
  std::string bytes(limit, '\0');
  const ssize_t count = retry_interrupted([&] { return ::read(0, bytes.data(), bytes.size()); });
  if (count < 0) co_return os_error(errno, "cannot read standard input");
  bytes.resize(static_cast<std::size_t>(count));
  co_return bytes;
}

Result<void> write_out(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      pollfd ready{descriptor, POLLOUT, 0};
      ::poll(&ready, 1, -1);
    } else if (errno == EPIPE) {
      return make_error(ErrorCode::cancelled, "nobody reads the output any more");
    } else if (errno != EINTR) {
      return os_error(errno,
                      descriptor == 2 ? "cannot write to standard error" : "cannot write to standard output");
    }
  }
  return {};
}

}  // namespace cube::cubectl
