// A machine that is only data, for what captures machines and keeps them: memory is a mapping, the state a
// string, and nothing runs.
#pragma once

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <cube/vmm.hpp>
#include <random>

namespace cube::test {

/// A mapping made as guest memory is: anonymous, or a private one of an image.
class Mapping {
 public:
  explicit Mapping(std::size_t bytes, int fd = -1)
      : bytes_(static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS | MAP_NORESERVE : 0), fd,
                                              0)),
               bytes) {
    REQUIRE(bytes_.data() != MAP_FAILED);
    ::madvise(bytes_.data(), bytes, MADV_NOHUGEPAGE);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { ::munmap(bytes_.data(), bytes_.size()); }

  std::span<std::byte> bytes() const { return bytes_; }
  std::span<std::byte> page(std::size_t index) const {
    return bytes_.subspan(index * vmm::page_size, vmm::page_size);
  }
  /// Content that tells seeds apart, and no zeros.
  void fill_page(std::size_t index, unsigned seed) const {
    std::mt19937 random(seed);
    for (std::byte& byte : page(index)) byte = static_cast<std::byte>(1 + random() % 255);
  }
  void zero_page(std::size_t index) const { std::memset(page(index).data(), 0, vmm::page_size); }
  void give_back(std::size_t index) const {
    REQUIRE(::madvise(page(index).data(), vmm::page_size, MADV_DONTNEED) == 0);
  }

 private:
  std::span<std::byte> bytes_;
};

class FakeMachine final : public vmm::Machine {
 public:
  explicit FakeMachine(std::vector<std::span<const std::byte>> memory = {}, std::string state = "state")
      : memory_(std::move(memory)), state_(std::move(state)) {}

  Result<void> resume() override { return {}; }
  Result<void> settle() override { return {}; }
  Result<void> pause() override { return {}; }
  void expect_use() override {}
  Result<vmm::MachineState> save() override { return vmm::MachineState{state_}; }
  Result<std::shared_ptr<const vmm::ProcessMemory>> memory() const override {
    return vmm::ProcessMemory::open(memory_);
  }
  asio::awaitable<Result<std::unique_ptr<Stream>>> connect(std::uint32_t,
                                                           std::chrono::milliseconds) override {
    co_return make_error(ErrorCode::unavailable, "nothing runs here");
  }
  bool stopped() const override { return stopped_; }
  void stop() override { stopped_ = true; }

 private:
  std::vector<std::span<const std::byte>> memory_;
  std::string state_;
  bool stopped_ = false;
};

}  // namespace cube::test
