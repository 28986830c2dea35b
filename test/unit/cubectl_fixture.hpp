// cubectl as a user runs it: the real program, in a pipe or on a terminal, against the real API and proxy.
// Sandboxes are entries in a map; inside each is the same real agent, on this machine.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <csignal>
#include <cstring>
#include <cube/api.hpp>
#include <cube/guest.hpp>
#include <cube/proxy.hpp>
#include <future>
#include <thread>

#include "agent.hpp"
#include "event_loop.hpp"
#include "memory_node.hpp"
#include "users.hpp"

namespace cube::test {

inline const std::string key = "e2b_0123456789abcdef";
constexpr std::chrono::seconds patience{60};

inline bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

/// The daemon's outside on a thread of its own.
class Service {
 public:
  explicit Service(std::string api_key = key)
      : agent_(must(agent::Agent::create(loop_, agent::Role::test_on_host))),
        server_(loop_.get_executor(),
                proxy::make_handler(
                    loop_.get_executor(), sandboxes_,
                    api::make_handler({std::move(api_key), "", "/images"}, sandboxes_, templates_))),
        port_(must(server_.listen("127.0.0.1", 0))),
        busy_(loop_.get_executor()) {
    agent_->settings().default_user = agent::user_name_of(::geteuid());
    agent_->settings().access_token = "secret-token";
    sandboxes_.ports[guest::envd_port] = must(agent_->listen_envd("127.0.0.1", 0));
    templates::TemplateInfo base;
    base.id = "ssssssssssssssssssss";
    base.name = "base";
    templates_.infos.push_back(base);
    sandboxes_.infos.push_back(MemorySandboxes::make("box1"));
    ::signal(SIGPIPE, SIG_IGN);  // as in the agent's own program
    thread_ = std::thread([this] { loop_.run(); });
  }

  ~Service() {
    asio::post(loop_, [this] { loop_.stop(); });
    thread_.join();
  }

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

  /// What `look` finds, on the service's own thread.
  template <class Look>
  auto see(Look look) {
    std::promise<decltype(look(sandboxes_, templates_))> found;
    asio::post(loop_, [&] { found.set_value(look(sandboxes_, templates_)); });
    return found.get_future().get();
  }

  void add_sandbox(const std::string& id) {
    see([&](auto& sandboxes, auto&) { return sandboxes.infos.push_back(MemorySandboxes::make(id)), 0; });
  }

 private:
  asio::io_context loop_{1};
  MemorySandboxes sandboxes_;
  MemoryTemplates templates_;
  std::unique_ptr<agent::Agent> agent_;
  http::Server server_;
  std::uint16_t port_;
  asio::executor_work_guard<asio::io_context::executor_type> busy_;
  std::thread thread_;
};

using Words = std::vector<std::string>;
using Variables = std::map<std::string, std::string>;

/// The environment and arguments of a program, laid out before a fork.
class Image {
 public:
  Image(Words words, const Variables& variables) : words_(std::move(words)) {
    for (const auto& [name, value] : variables) variables_.push_back(name + "=" + value);
    for (std::string& word : words_) arguments_.push_back(word.data());
    for (std::string& variable : variables_) environment_.push_back(variable.data());
    arguments_.push_back(nullptr);
    environment_.push_back(nullptr);
  }

  /// In the child of a fork.
  [[noreturn]] void become() const {
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGINT, SIG_DFL);
    ::signal(SIGPIPE, SIG_DFL);
    ::execve(arguments_.front(), arguments_.data(), environment_.data());
    ::_exit(127);
  }

 private:
  Words words_;
  std::vector<std::string> variables_;
  std::vector<char*> arguments_, environment_;
};

/// As a shell has it: 128 and the number for a signal. A program that does not end fails the test.
inline int wait_for(pid_t pid) {
  const Fd watch(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd ended{watch.get(), POLLIN, 0};
  if (::poll(&ended, 1, std::chrono::milliseconds(patience).count()) != 1) ::kill(pid, SIGKILL);
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) throw TestError("waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

inline Variables environment_of(const Service& service) {
  return {{"E2B_API_URL", service.url()},
          {"E2B_API_KEY", key},
          {"PATH", "/usr/bin:/bin"},
          {"TERM", "xterm"},
          {"HOME", "/nonexistent"}};
}

inline Words program(const Words& arguments) {
  Words words{CUBECTL};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

struct Ran {
  int status = -1;
  std::string out, err;
};

/// One running cubectl with pipes.
class Running {
 public:
  Running(const Words& words, const Variables& variables, int input) {
    const Image image(words, variables);
    int out[2], err[2];
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(err, O_CLOEXEC) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(input, 0);
      ::dup2(out[1], 1);
      ::dup2(err[1], 2);
      image.become();
    }
    ::close(out[1]);
    ::close(err[1]);
    out_ = Fd(out[0]);
    err_ = Fd(err[0]);
  }
  ~Running() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), wait_for(pid_);
  }

  pid_t pid() const { return pid_; }
  const std::string& out() const { return ran_.out; }

  void read_until(std::string_view text) {
    while (!contains(ran_.out, text))
      if (!read_some()) throw TestError("never said: " + std::string(text) + "; but: " + ran_.out + ran_.err);
  }

  void close_output() { out_.reset(); }

  Ran finish() {
    while (read_some()) {
    }
    ran_.status = wait_for(std::exchange(pid_, -1));
    return ran_;
  }

 private:
  bool read_some() {
    pollfd ready[2] = {{out_ ? out_.get() : -1, POLLIN, 0}, {err_ ? err_.get() : -1, POLLIN, 0}};
    if (!out_ && !err_) return false;
    if (::poll(ready, 2, std::chrono::milliseconds(patience).count()) <= 0)
      throw TestError("cubectl says nothing");
    take(ready[0], out_, ran_.out);
    take(ready[1], err_, ran_.err);
    return true;
  }

  static void take(const pollfd& ready, Fd& from, std::string& to) {
    if (ready.revents == 0) return;
    char bytes[65536];
    const ssize_t count = ::read(from.get(), bytes, sizeof bytes);
    if (count > 0)
      to.append(bytes, static_cast<std::size_t>(count));
    else
      from.reset();
  }

  pid_t pid_ = -1;
  Fd out_, err_;
  Ran ran_;
};

inline Fd nothing() { return Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

/// A regular file with that content, as in `< file`.
inline Fd file_with(std::string_view content) {
  Fd file(::memfd_create("input", MFD_CLOEXEC));
  REQUIRE(::write(file.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()));
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

/// Runs cubectl to its end.
inline Ran run_cubectl(const Service& service, const Words& arguments, Fd input = nothing()) {
  return Running(program(arguments), environment_of(service), input.get()).finish();
}

/// What cubectl prints, when it must succeed without complaint.
inline std::string output(const Service& service, const Words& arguments, Fd input = nothing()) {
  const Ran ran = run_cubectl(service, arguments, std::move(input));
  INFO(ran.err);
  CHECK(ran.status == 0);
  CHECK(ran.err.empty());
  return ran.out;
}

/// cubectl on a terminal of 90 columns and 30 rows.
class OnTerminal {
 public:
  OnTerminal(const Service& service, const Words& arguments) {
    const Image image(program(arguments), environment_of(service));
    winsize size{30, 90, 0, 0};
    int master = -1, slave = -1;
    REQUIRE(::openpty(&master, &slave, nullptr, nullptr, &size) == 0);
    master_ = Fd(master);
    slave_ = Fd(slave);  // so that the terminal outlives the program
    for (const int end : {master, slave}) ::fcntl(end, F_SETFD, FD_CLOEXEC);
    REQUIRE(::tcgetattr(master_.get(), &before_) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::setsid();
      ::ioctl(slave, TIOCSCTTY, 0);
      for (const int standard : {0, 1, 2}) ::dup2(slave, standard);
      image.become();
    }
  }
  ~OnTerminal() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), wait_for(pid_);
  }

  pid_t pid() const { return pid_; }

  void type(std::string_view keys) {
    REQUIRE(::write(master_.get(), keys.data(), keys.size()) == static_cast<ssize_t>(keys.size()));
  }

  void read_until(std::string_view text) {
    while (!contains(shown_, text)) {
      pollfd ready{master_.get(), POLLIN, 0};
      char bytes[65536];
      const bool waited = ::poll(&ready, 1, std::chrono::milliseconds(patience).count()) == 1;
      const ssize_t count = waited ? ::read(master_.get(), bytes, sizeof bytes) : -1;
      if (count <= 0) throw TestError("never showed: " + std::string(text) + "; but: " + shown_);
      shown_.append(bytes, static_cast<std::size_t>(count));
    }
  }

  const std::string& shown() const { return shown_; }

  void resize(unsigned short columns, unsigned short rows) {
    const winsize size{rows, columns, 0, 0};
    REQUIRE(::ioctl(master_.get(), TIOCSWINSZ, &size) == 0);
  }

  bool is_raw() const {
    termios now{};
    REQUIRE(::tcgetattr(master_.get(), &now) == 0);
    return (now.c_lflag & (ICANON | ECHO)) == 0;
  }

  bool is_as_before() const {
    termios now{};
    REQUIRE(::tcgetattr(master_.get(), &now) == 0);
    return now.c_lflag == before_.c_lflag && now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag;
  }

  int wait() { return wait_for(std::exchange(pid_, -1)); }

 private:
  pid_t pid_ = -1;
  Fd master_, slave_;
  termios before_{};
  std::string shown_;
};

}  // namespace cube::test
