#include "terminal.hpp"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

namespace cube::cubectl {
namespace {

// Where handlers of signals and of exit find them.
termios saved_mode;
volatile std::sig_atomic_t saved_descriptor = -1;

/// Safe in a signal handler: tcsetattr is, POSIX says.
void restore() {
  const int descriptor = saved_descriptor;
  if (descriptor < 0) return;
  saved_descriptor = -1;
  ::tcsetattr(descriptor, TCSADRAIN, &saved_mode);
}

void restore_and_die(int number) {
  restore();
  ::signal(number, SIG_DFL);
  ::raise(number);
}

void restore_however_it_ends() {
  static const bool once = [] {
    std::atexit(restore);
    for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) ::signal(number, restore_and_die);
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

std::optional<TerminalSize> terminal_size(int descriptor) {
  if (::isatty(descriptor) != 1) return std::nullopt;
  winsize window{};
  TerminalSize size;
  if (::ioctl(descriptor, TIOCGWINSZ, &window) != 0) return size;
  if (window.ws_col > 0) size.columns = window.ws_col;
  if (window.ws_row > 0) size.rows = window.ws_row;
  return size;
}

Result<RawTerminal> RawTerminal::enter(int descriptor) {
  if (::tcgetattr(descriptor, &saved_mode) != 0) return os_error(errno, "cannot read the terminal's mode");
  termios raw = saved_mode;
  ::cfmakeraw(&raw);
  restore_however_it_ends();
  saved_descriptor = descriptor;
  RawTerminal terminal;
  if (::tcsetattr(descriptor, TCSADRAIN, &raw) != 0)
    return os_error(errno, "cannot set the terminal to raw mode");
  return terminal;
}

RawTerminal::~RawTerminal() {
  if (active_) restore();
}

}  // namespace cube::cubectl
