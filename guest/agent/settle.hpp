// POST /settle (cube/guest.hpp): waiting until the kernel has finished what it began by itself.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <cstdint>
#include <string_view>

namespace cube::agent {

/// Returns when free memory has been reported to the host, or after half a minute.
asio::awaitable<void> settle(asio::any_io_executor loop);

/// How many interrupts `device` has raised on all processors, from the text of /proc/interrupts; 0 if it is
/// not there.
std::uint64_t interrupts_of(std::string_view table, std::string_view device);

}  // namespace cube::agent
