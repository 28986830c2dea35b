#include "core/result.hpp"

#include <cerrno>
#include <cstring>

namespace cube {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::already_exists: return "already_exists";
    case ErrorCode::conflict: return "conflict";
    case ErrorCode::unauthenticated: return "unauthenticated";
    case ErrorCode::permission_denied: return "permission_denied";
    case ErrorCode::resource_exhausted: return "resource_exhausted";
    case ErrorCode::unavailable: return "unavailable";
    case ErrorCode::deadline_exceeded: return "deadline_exceeded";
    case ErrorCode::unimplemented: return "unimplemented";
    case ErrorCode::cancelled: return "canceled";
    case ErrorCode::corrupt: return "data_loss";
    case ErrorCode::guest: return "guest";
    case ErrorCode::internal: return "internal";
  }
  return "internal";
}

std::string Error::describe() const {
  std::string text;
  if (!object.empty()) text += object + ": ";
  text += message;
  if (os_errno != 0) {
    text += ": ";
    text += ::strerrordesc_np(os_errno) ? ::strerrordesc_np(os_errno) : "unknown error";
  }
  return text;
}

Error make_error(ErrorCode code, std::string message, std::string object) {
  return Error{code, std::move(message), 0, std::move(object)};
}

namespace {

ErrorCode code_for(int os_errno) {
  switch (os_errno) {
    case ENOENT: case ENODEV: case ENXIO: case ESRCH: return ErrorCode::not_found;
    case EEXIST: return ErrorCode::already_exists;
    case EACCES: case EPERM: case EROFS: return ErrorCode::permission_denied;
    case ENOSPC: case EDQUOT: case ENOMEM: case EMFILE: case ENFILE: return ErrorCode::resource_exhausted;
    case EINVAL: case ENAMETOOLONG: case ENOTDIR: case EISDIR: return ErrorCode::invalid_argument;
    case EAGAIN: case EBUSY: case ECONNREFUSED: case ECONNRESET: return ErrorCode::unavailable;
    case ETIMEDOUT: return ErrorCode::deadline_exceeded;
    case ECANCELED: return ErrorCode::cancelled;
    default: return ErrorCode::internal;
  }
}

}  // namespace

Error os_error(int os_errno, std::string operation, std::string object) {
  return Error{code_for(os_errno), std::move(operation), os_errno, std::move(object)};
}

}  // namespace cube
