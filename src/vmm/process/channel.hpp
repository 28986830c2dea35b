// Calls from the daemon into the process of a machine, one at a time, each answered.
#pragma once

#include <chrono>
#include <cube/core.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cube::vmm {

/// What the daemon asks for. The descriptors a call takes with it are listed in messages.hpp.
enum class Call : std::uint32_t { boot, restore, resume, settle, pause, save };

struct Message {
  std::uint32_t type = 0;  ///< a Call; in an answer 0
  std::string bytes;
  std::vector<Fd> descriptors;
};

/// A stream socket that takes whole messages. Both ends block; one thread at a time.
class Channel {
 public:
  explicit Channel(Fd socket) : socket_(std::move(socket)) {}

  /// How long a message may be on its way, before the other end counts as dead (`deadline_exceeded`).
  Result<void> set_patience(std::chrono::seconds patience);

  Result<void> send(std::uint32_t type, std::string_view bytes, std::span<const int> descriptors = {});

  enum class Descriptors { refused, taken };
  /// `unavailable` at the end of the stream, `corrupt` for a message of more than `most` bytes.
  Result<Message> receive(Descriptors descriptors, std::uint32_t most);

 private:
  Fd socket_;
};

}  // namespace cube::vmm
