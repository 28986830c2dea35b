// Services of the image: the executable files of /etc/cube/start.d, kept running as root.
#pragma once

#include <memory>
#include <string>

#include "children.hpp"
#include "settings.hpp"

namespace cube::agent {

class Supervisor {
 public:
  /// `logs`: the directory of the services' output, cube-<name>.log each.
  Supervisor(asio::any_io_executor loop, Children& children, const Settings& settings, std::string logs);
  ~Supervisor();  ///< starts nothing any more

  /// Starts every executable file in `directory`, in lexical order; each is started again when it ends, after
  /// 0.2 s at first and up to 5 s if it keeps ending.
  void start(const std::string& directory);

 private:
  struct Shared;
  static asio::awaitable<void> keep_running(std::shared_ptr<Shared> shared, std::string path);
  static asio::awaitable<Result<void>> run_once(std::shared_ptr<Shared> shared, std::string path);

  std::shared_ptr<Shared> shared_;
};

}  // namespace cube::agent
