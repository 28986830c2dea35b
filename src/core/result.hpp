// Result<T>: a value or an Error that says what failed, with which object, and why.
//
// Errors cross module interfaces as values; exceptions are for start-up only. Guest-caused conditions
// are ordinary values too: a hostile guest must be able to fail, never to throw.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace cube {

enum class ErrorCode {
  invalid_argument,
  not_found,
  already_exists,
  conflict,
  unauthenticated,
  permission_denied,
  resource_exhausted,
  unavailable,
  deadline_exceeded,
  unimplemented,
  cancelled,
  corrupt,   ///< stored data fails its checks
  guest,     ///< the guest broke a rule of its device or protocol
  internal,
};

/// Lower-case snake name of the code, the same spelling the Connect protocol uses where both have one.
std::string_view to_string(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;   ///< what was wrong and what to do about it
  int os_errno = 0;      ///< errno of the failing system call, 0 if none
  std::string object;    ///< path, id, device or address the call was about

  /// "open /dev/kvm: Permission denied: cannot open the KVM device"
  std::string describe() const;
};

Error make_error(ErrorCode code, std::string message, std::string object = {});

/// Captures errno; maps the common values (ENOENT, EEXIST, EACCES, ENOSPC, ...) to an ErrorCode.
Error os_error(int os_errno, std::string operation, std::string object = {});

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  template <class U>
    requires(std::is_convertible_v<U&&, T> && !std::is_same_v<std::remove_cvref_t<U>, Result> &&
             !std::is_same_v<std::remove_cvref_t<U>, Error> && !std::is_same_v<std::remove_cvref_t<U>, T>)
  Result(U&& value) : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  /// Precondition: ok(). A violation throws std::bad_variant_access, a bug in the caller.
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  /// Precondition: !ok().
  Error& error() & { return std::get<1>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  Error& error() & { return std::get<1>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<std::monostate, Error> state_;
};

}  // namespace cube

/// Returns the error of a Result<void> expression from the enclosing function.
#define CUBE_TRY(expression)                                        \
  do {                                                              \
    if (auto cube_result = (expression); !cube_result.ok())         \
      return std::move(cube_result).error();                        \
  } while (false)
