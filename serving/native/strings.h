// Texts as Triton sends them (the length in four bytes, then the bytes), and what they have to be: UTF-8.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "engine.h"

// Reads the strings of an input one after the other, no more and no fewer than its shape has. Throws Failure.
class Strings {
 public:
  explicit Strings(const Input& input) : input_(input), at_(input.data), left_(input.size) {
    bool fits = true;
    for (const int64_t dim : input.shape) fits = fits && !__builtin_mul_overflow(count_, dim, &count_);
    if (!fits || count_ > left_ / sizeof(uint32_t)) fail();  // before memory is made for them
  }

  bool next(std::string_view& text) {
    if (count_ == 0) {
      if (left_ != 0) fail();
      return false;
    }
    uint32_t length = 0;
    if (left_ < sizeof(length)) fail();
    std::memcpy(&length, at_, sizeof(length));
    if (left_ - sizeof(length) < length) fail();
    text = std::string_view(at_ + sizeof(length), length);
    at_ += sizeof(length) + length;
    left_ -= sizeof(length) + length;
    --count_;
    return true;
  }

 private:
  [[noreturn]] void fail() const {
    throw Failure{TRITONSERVER_ERROR_INVALID_ARG,
                  std::string("input '") + input_.name + "' does not hold as many strings as its shape says"};
  }

  const Input& input_;
  const char* at_;
  size_t left_;
  size_t count_ = 1;
};

// Bytes of the character at the head of a text. Where it is none, `bad` says how many bytes stand for one U+FFFD: the
// longest beginning of a character, as Unicode recommends and Python does.
inline size_t utf8_length(std::string_view text, size_t& bad) {
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  bad = 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // the second byte excludes what is spelled too long, surrogates, and what lies beyond U+10FFFF
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (; bad < length; ++bad) {
    if (bad >= text.size()) return 0;
    if (bad == 1 ? byte(1) < low || byte(1) > high : (byte(bad) & 0xC0) != 0x80) return 0;
  }
  return length;
}

inline bool is_utf8(std::string_view text) {
  size_t bad = 0;
  while (!text.empty()) {
    const size_t length = utf8_length(text, bad);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

inline std::string with_replacements(std::string_view text) {
  std::string found;
  size_t bad = 0;
  while (!text.empty()) {
    const size_t length = utf8_length(text, bad);
    if (length == 0) {
      found += "\xEF\xBF\xBD";
      text.remove_prefix(bad);
    } else {
      found += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return found;
}
