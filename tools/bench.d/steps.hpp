// Durations of named steps in microseconds, and of their sums.
#pragma once

#include <deque>
#include <string>
#include <utility>

#include "statistics.hpp"

namespace cube::bench {

class Steps {
 public:
  /// Adds what `work` takes to the step; a step that occurs more than once in a round counts once, with the
  /// sum.
  template <class Work>
  auto time(const char* name, Work work) {
    const auto start = Clock::now();
    struct Stop {
      Steps& steps;
      const char* name;
      Clock::time_point start;
      ~Stop() { steps.add(name, 1000 * milliseconds_since(start)); }
    } stop{*this, name, start};
    return work();
  }

  void end_round() {
    double sum = 0;
    for (Step& step : steps_) {
      step.samples.add(step.this_round);
      sum += std::exchange(step.this_round, 0);
    }
    total_.add(sum);
  }

  struct Step {
    std::string name;
    double this_round = 0;
    Samples samples;
  };
  const std::deque<Step>& steps() const { return steps_; }
  const Samples& total() const { return total_; }

 private:
  void add(const char* name, double microseconds) {
    for (Step& step : steps_)
      if (step.name == name) {
        step.this_round += microseconds;
        return;
      }
    steps_.push_back({name, microseconds, {}});
  }

  std::deque<Step> steps_;
  Samples total_;
};

}  // namespace cube::bench
