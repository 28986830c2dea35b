// vmm: microVMs on /dev/kvm (CubeHypervisor in CubeSandbox).
//
// A Machine is one virtual machine: memory, vCPU threads, devices. It is booted from an uncompressed 64-bit
// vmlinux or restored, into a MachineShell that was made ahead of time, from a MachineState plus a
// MemoryImage that is mapped MAP_PRIVATE, so that restoring costs (almost) no copy and a page is the
// machine's own only once it has written it.
//
// A machine lives in this process or, with shells_in_processes, in a confined process of its own;
// whoever uses it sees no difference.
//
// The library takes open descriptors; it opens no path but those of its own process in /proc, knows no
// sandbox id, has no globals but its signal handlers. Whatever a guest does, or damage to its memory image,
// ends in its own Machine's `on_stop`, never in an exception or abort.
//
// Threads: every function is called from the event loop unless it says "blocks", then from a worker.
// Each vCPU has a thread that does KVM_RUN and hands device work on.
#pragma once

#include <array>
#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cube/core.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

struct iovec;

namespace cube::vmm {

inline constexpr std::uint64_t page_size = 4096;
inline constexpr std::uint32_t max_vcpus = 32;

/// What a virtio-blk device stores its sectors in. Called from one worker at a time; blocks.
class BlockBackend {
 public:
  virtual ~BlockBackend() = default;
  virtual std::uint64_t capacity_bytes() const = 0;  ///< a multiple of 512
  virtual Result<void> read(std::uint64_t offset, std::span<const iovec> into) = 0;
  virtual Result<void> write(std::uint64_t offset, std::span<const iovec> from) = 0;
  virtual Result<void> flush() = 0;
};

/// Why a machine no longer runs.
struct StopReason {
  enum class Kind {
    reset,        ///< the guest asked for a reset (keyboard controller, triple fault): for a sandbox, its end
    guest_error,  ///< the guest broke a device's rules or KVM cannot run it
    host_error,   ///< an ioctl failed, or its memory image is damaged
    requested,    ///< stop() was called
  };
  Kind kind = Kind::requested;
  std::string detail;
};

/// The executors a machine's devices run on. `loop` is the event loop, `workers` may block.
struct Executors {
  asio::any_io_executor loop;
  asio::any_io_executor workers;
};

/// What both ways of making a machine need.
struct MachineConfig {
  std::uint32_t vcpu_count = 1;               ///< 1..max_vcpus
  std::uint64_t memory_bytes = 512ull << 20;  ///< a multiple of page_size, at least 64 MiB
  std::shared_ptr<BlockBackend> root_disk;    ///< /dev/vda
  /// VM generation ID: random bytes that no other copy of this guest ever had. Written at boot; a restored
  /// guest keeps the one it was saved with, unless `new_generation`.
  std::array<std::uint8_t, 16> generation_id{};
  /// Restored as one more copy, not as the guest that was saved: it finds the new id and an interrupt, at
  /// which Linux reseeds its random number generator.
  bool new_generation = false;
  Fd tap;  ///< virtio-net backend, opened with IFF_VNET_HDR; none: the device drops everything
  std::function<void(std::string_view)> on_console;  ///< serial output, in pieces; from any thread
  std::function<void(StopReason)> on_stop;           ///< once, on the loop
};

struct BootSource {
  int kernel_fd = -1;        ///< an ELF64 vmlinux; read, not kept
  std::string command_line;  ///< without devices; console=, root= and init= are the caller's
};

/// Everything of a paused machine but its memory and disk: versioned, checksummed, host fingerprint inside.
struct MachineState {
  std::string bytes;
};

/// Runs of pages of guest memory, in the order of a memory image (low RAM first).
struct PageRun {
  std::uint64_t offset = 0;  ///< bytes, whole pages
  std::uint64_t bytes = 0;
  bool written = false;  ///< the guest wrote to it, so it will be copied; else it was only read
};

/// What a restored machine's memory is: a base image, mapped whole, and above it runs of pages from the files
/// of later layers. Large runs are mapped, small ones copied, so that a machine needs few mappings. The files
/// may be closed once the machine is restored, and must never change while it lives.
struct MemoryImage {
  static constexpr std::uint64_t least_mapped_bytes = 16u << 10;  ///< smaller runs are copied
  struct Run {
    std::uint64_t memory_offset = 0;
    std::uint64_t bytes = 0;  ///< whole pages
    int fd = -1;
    std::uint64_t file_offset = 0;  ///< on a page
  };
  int base_fd = -1;           ///< holds memory_bytes
  std::span<const Run> runs;  ///< ascending, disjoint
  /// Pages made present (and copied, where written) before the first resume, because an earlier clone needed
  /// them at once. A hint: what cannot be done is left to the guest's faults. Ascending.
  std::span<const PageRun> working_set;
  /// The same, made present when the machine is to be used (Machine::expect_use): one that never is costs
  /// nothing of it.
  std::span<const PageRun> first_use;
  /// Which pages are present is going to be asked: faults map no neighbours of the page that was touched,
  /// where the kernel can do that.
  bool observed = false;
};

/// Refuses a descriptor that is not KVM of the stable API version 12, or lacks what the monitor needs.
Result<void> check_kvm(int kvm_fd);

/// A machine's memory for whoever looks at it from outside its process: proc_pid_mem(5),
/// proc_pid_pagemap(5) and proc_pid_clear_refs(5), which stay with the process that opened them.
class ProcessMemory {
 public:
  struct Region {
    std::uint64_t address = 0;  ///< in that process
    std::uint64_t bytes = 0;    ///< whole pages
  };

  /// Of the calling process, which may have other machines: their writes cannot be told apart. `regions` are
  /// in the order of a memory image: low RAM first.
  static Result<std::shared_ptr<const ProcessMemory>> open(
      std::span<const std::span<const std::byte>> regions);

  /// `clear_refs` of a process with no other machine, or none.
  ProcessMemory(Fd memory, Fd pagemap, Fd clear_refs, std::vector<Region> regions)
      : memory_(std::move(memory)),
        pagemap_(std::move(pagemap)),
        clear_refs_(std::move(clear_refs)),
        regions_(std::move(regions)) {}

  std::uint64_t bytes() const;
  std::span<const Region> regions() const { return regions_; }
  int pagemap_fd() const { return pagemap_.get(); }

  /// Whether the process is still there: of one that has ended, pages are not found.
  bool alive() const;

  /// From `offset` of the image on. `unavailable` if the process is gone, `corrupt` where its image lost
  /// pages.
  Result<void> read(std::uint64_t offset, std::span<std::byte> into) const;

  /// From now on the kernel marks the pages that are written to
  /// (Documentation/admin-guide/mm/soft-dirty.rst); the guest faults once more on every page it uses again.
  /// For a paused machine; one thread at a time. The moment's number, of which there is no other.
  /// `unimplemented` where writes cannot be told.
  Result<std::uint64_t> forget_writes() const;
  /// The moment since which pages are marked; 0 before the first.
  std::uint64_t marked_since() const { return marked_since_; }

 private:
  Fd memory_;
  Fd pagemap_;
  Fd clear_refs_;
  std::vector<Region> regions_;
  mutable std::atomic<std::uint64_t> marked_since_ = 0;
};

class Machine;

/// What of a virtual machine needs no guest: KVM's VM with its memory slots, interrupt chip and vCPUs. Made
/// ahead of time by a pool. Booting and restoring block and use the shell up, also by an error;
/// `config`'s vcpu_count and memory_bytes are the shell's (`invalid_argument`).
class MachineShell {
 public:
  virtual ~MachineShell() = default;  ///< blocks
  virtual std::uint32_t vcpu_count() const = 0;
  virtual std::uint64_t memory_bytes() const = 0;

  /// The machine is created paused.
  virtual Result<std::unique_ptr<Machine>> boot(Executors executors, MachineConfig config,
                                                const BootSource& source) = 0;

  /// Created paused, too. The work grows with the copied runs and the working set only, not with the size of
  /// memory. `corrupt` if the state fails its checks or a file is shorter than what is wanted of it;
  /// `conflict` if the state was saved on another CPU model, device model or shape.
  virtual Result<std::unique_ptr<Machine>> restore(Executors executors, MachineConfig config,
                                                   const MachineState& state, const MemoryImage& memory) = 0;
};

/// Makes shells; safe from any thread.
class ShellMaker {
 public:
  virtual ~ShellMaker() = default;
  virtual Result<std::unique_ptr<MachineShell>> make(std::uint32_t vcpu_count,
                                                     std::uint64_t memory_bytes) = 0;  ///< blocks

  /// For a guest that waits: as make(), but the shell may still be in the making. What fails shows when it is
  /// used; one that is not used is given back some time later.
  virtual Result<std::unique_ptr<MachineShell>> order(std::uint32_t vcpu_count, std::uint64_t memory_bytes) {
    return make(vcpu_count, memory_bytes);
  }
};

/// Machines of this process. `kvm_fd` is an open /dev/kvm that outlives them.
std::shared_ptr<ShellMaker> shells_in_this_process(int kvm_fd);

/// Each machine in a process of its own, which has the machine's descriptors and nothing else: no file can be
/// opened there, no connection made, no other process reached. A guest that breaks out of its machine finds
/// itself there; and KVM's work for one does not grow with the number of the others (src/vmm/README.md).
///
/// Forks, at once, the process that all of them are forked from: to be called before the daemon has threads
/// or secrets. All of them end with it, however it ends. Blocks.
Result<std::shared_ptr<ShellMaker>> shells_in_processes(int kvm_fd);

class Machine {
 public:
  /// Blocks: stops the vCPU threads and closes the virtual machine (10-25 ms in some kernels).
  virtual ~Machine() = default;

  /// Does not wait. `unavailable` if it has stopped; what fails later is a reason to stop.
  virtual Result<void> resume() = 0;

  /// Blocks while the guest is busy with what the host has just sent it, until a quarter of a second after
  /// that at most: what it was asked to start is better paused where it waits than on its way there. At once
  /// if nothing was sent lately, however busy it is. For a running machine that is to be paused for long.
  /// `unavailable` if it has stopped.
  virtual Result<void> settle() = 0;

  /// Blocks until no vCPU runs and no device request is in flight.
  virtual Result<void> pause() = 0;

  /// Paused machines only. Open vsock connections are not part of the state; the guest sees them reset.
  virtual Result<MachineState> save() = 0;

  /// The guest is about to be used: its image's `first_use` is made present, once, while it may already run.
  /// Does not wait.
  virtual void expect_use() = 0;

  /// What is read of a running machine's memory may be from different moments.
  virtual Result<std::shared_ptr<const ProcessMemory>> memory() const = 0;

  /// Connects to a listening vsock port of the guest. `unavailable` if it refuses or the machine stops,
  /// `deadline_exceeded` if it does not answer in time.
  virtual asio::awaitable<Result<std::unique_ptr<Stream>>> connect(std::uint32_t port,
                                                                   std::chrono::milliseconds timeout) = 0;

  /// True once on_stop was or is about to be called, or the memory was found damaged.
  virtual bool stopped() const = 0;

  /// Ends the machine's guest without waiting; streams into it end, on_stop follows. The object must still be
  /// destroyed.
  virtual void stop() = 0;
};

}  // namespace cube::vmm
