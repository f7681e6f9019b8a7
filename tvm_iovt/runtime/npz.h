// NumPy's .npz: a zip archive of .npy arrays. Reads and writes stored (uncompressed) entries of
// little-endian, C-ordered arrays, which is what numpy.savez makes; every offset is checked.
#ifndef TVM_IOVT_RUNTIME_NPZ_H_
#define TVM_IOVT_RUNTIME_NPZ_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "failure.h"

namespace iovt {

struct NpyArray {
  char kind = 'f';    // NumPy's kind: f, i, u or b
  int itemsize = 4;   // bytes of an element
  std::vector<int64_t> shape;
  std::vector<uint8_t> data;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
};

namespace npz_detail {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
constexpr uint16_t kUtf8Names = 1 << 11;

inline uint32_t Crc32(const uint8_t* data, size_t size) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      made[i] = c;
    }
    return made;
  }();
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < size; ++i) crc = table[(crc ^ data[i]) & 255] ^ (crc >> 8);
  return ~crc;
}

// The bytes of a file, read with bounds checks.
class Bytes {
 public:
  Bytes(std::string path, std::vector<uint8_t> bytes)
      : path_(std::move(path)), bytes_(std::move(bytes)) {}

  [[noreturn]] void Fail(const std::string& seen) const {
    throw Failure{kBundle, path_ + " is damaged", seen, "copy the file again"};
  }
  const uint8_t* At(uint64_t offset, uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) Fail("the file ends too early");
    return bytes_.data() + offset;
  }
  uint64_t Number(uint64_t offset, int width) const {
    const uint8_t* p = At(offset, static_cast<uint64_t>(width));
    uint64_t value = 0;
    for (int i = width - 1; i >= 0; --i) value = value << 8 | p[i];
    return value;
  }
  uint64_t size() const { return bytes_.size(); }

 private:
  std::string path_;
  std::vector<uint8_t> bytes_;
};

// The text after `'key':` in the header of an .npy array, a Python dictionary.
inline std::string HeaderValue(const Bytes& file, const std::string& header,
                               const std::string& key) {
  size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) file.Fail("an array without " + key);
  at = header.find_first_not_of(' ', at + key.size() + 3);
  if (at == std::string::npos) file.Fail("an array without " + key);
  return header.substr(at);
}

inline NpyArray ParseNpy(const Bytes& file, uint64_t offset, uint64_t size) {
  if (size < 10 || std::memcmp(file.At(offset, 6), "\x93NUMPY", 6) != 0) {
    file.Fail("no NumPy array");
  }
  uint64_t major = file.Number(offset + 6, 1);
  int width = major == 1 ? 2 : 4;
  uint64_t header_size = file.Number(offset + 8, width);
  uint64_t start = 8 + static_cast<uint64_t>(width) + header_size;
  if (start > size) file.Fail("an array header that is too long");
  const uint8_t* text = file.At(offset + start - header_size, header_size);
  std::string header(reinterpret_cast<const char*>(text), header_size);

  NpyArray array;
  std::string descr = HeaderValue(file, header, "descr");
  bool simple = descr.size() > 4 && descr[0] == '\'' && descr[4] == '\'' &&
                (descr[1] == '<' || descr[1] == '|') && descr[3] >= '1' && descr[3] <= '8' &&
                std::string("fiub").find(descr[2]) != std::string::npos;
  if (!simple) file.Fail("an array of dtype " + descr.substr(0, descr.find(',')));
  array.kind = descr[2];
  array.itemsize = descr[3] - '0';
  if (array.itemsize != 1 && array.itemsize != 2 && array.itemsize != 4 && array.itemsize != 8) {
    file.Fail("an array of dtype " + descr.substr(0, 5));
  }

  std::string shape = HeaderValue(file, header, "shape");
  if (shape.empty() || shape[0] != '(') file.Fail("an array without a shape");
  uint64_t elements = 1;
  for (size_t i = 1; i < shape.size() && shape[i] != ')';) {
    if (shape[i] == ',' || shape[i] == ' ') {
      ++i;
      continue;
    }
    uint64_t extent = 0;
    size_t digits = 0;
    for (; i < shape.size() && shape[i] >= '0' && shape[i] <= '9' && digits < 12; ++i, ++digits) {
      extent = extent * 10 + static_cast<uint64_t>(shape[i] - '0');
    }
    if (digits == 0 || digits == 12) file.Fail("an array without a valid shape");
    if (extent != 0 && elements > size / extent) file.Fail("an array larger than its file");
    elements *= extent;
    array.shape.push_back(static_cast<int64_t>(extent));
  }
  if (HeaderValue(file, header, "fortran_order").compare(0, 5, "False") != 0) {
    file.Fail("an array in Fortran order");
  }

  uint64_t bytes = elements * static_cast<uint64_t>(array.itemsize);
  if (bytes != size - start) file.Fail("an array of another size than its shape");
  const uint8_t* data = file.At(offset + start, bytes);
  array.data.assign(data, data + bytes);
  return array;
}

inline void Append(std::string* out, uint64_t value, int width) {
  for (int i = 0; i < width; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

inline std::string NpyHeader(const NpyArray& array) {
  std::string shape = "(";
  for (int64_t extent : array.shape) shape += std::to_string(extent) + ", ";
  if (array.shape.size() > 1) shape.resize(shape.size() - 2);
  if (array.shape.size() == 1) shape.resize(shape.size() - 1);
  std::string dict = "{'descr': '" + std::string(array.itemsize == 1 ? "|" : "<") + array.kind +
                     std::to_string(array.itemsize) + "', 'fortran_order': False, 'shape': " +
                     shape + "), }";
  dict.append(63 - (10 + dict.size()) % 64, ' ');  // data start on a multiple of 64 bytes
  dict += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  Append(&header, dict.size(), 2);
  return header + dict;
}

}  // namespace npz_detail

inline std::map<std::string, NpyArray> ReadNpz(const std::string& path) {
  using namespace npz_detail;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Failure{kBundle, path + " cannot be read", "", "check the path"};
  Bytes file(path, std::vector<uint8_t>(std::istreambuf_iterator<char>(stream), {}));

  uint64_t end = file.size() < 22 ? 0 : file.size() - 22;
  while (end > 0 && file.size() - end < 22 + 65535 && file.Number(end, 4) != kEnd) --end;
  if (file.size() < 22 || file.Number(end, 4) != kEnd) file.Fail("not a zip archive");
  uint64_t count = file.Number(end + 10, 2), at = file.Number(end + 16, 4);

  std::map<std::string, NpyArray> arrays;
  for (uint64_t i = 0; i < count; ++i) {
    if (file.Number(at, 4) != kCentralHeader) file.Fail("a broken zip directory");
    uint64_t method = file.Number(at + 10, 2), crc = file.Number(at + 16, 4);
    uint64_t stored = file.Number(at + 20, 4), size = file.Number(at + 24, 4);
    uint64_t name_size = file.Number(at + 28, 2), local = file.Number(at + 42, 4);
    std::string name(reinterpret_cast<const char*>(file.At(at + 46, name_size)), name_size);
    at += 46 + name_size + file.Number(at + 30, 2) + file.Number(at + 32, 2);
    if (method != 0 || stored != size || size == 0xffffffffu || local == 0xffffffffu) {
      file.Fail("the compressed or 4 GiB entry " + name + "; write it with numpy.savez");
    }
    if (file.Number(local, 4) != kLocalHeader) file.Fail("a broken zip entry " + name);
    uint64_t offset = local + 30 + file.Number(local + 26, 2) + file.Number(local + 28, 2);
    if (Crc32(file.At(offset, size), size) != crc) file.Fail("a wrong checksum of " + name);
    const std::string suffix = ".npy";
    if (name.size() <= suffix.size() ||
        name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) {
      file.Fail("the entry " + name + ", which is no array");
    }
    name.resize(name.size() - suffix.size());
    arrays[name] = ParseNpy(file, offset, size);
  }
  return arrays;
}

inline void WriteNpz(const std::string& path, const std::map<std::string, NpyArray>& arrays) {
  using namespace npz_detail;
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  std::string directory;
  uint64_t offset = 0;
  for (const auto& [key, array] : arrays) {
    std::string name = key + ".npy", body = NpyHeader(array);
    body.append(reinterpret_cast<const char*>(array.data.data()), array.data.size());
    if (offset + body.size() > 0xf0000000u) {
      throw Failure{kUsage, path + " would exceed 4 GiB", "", "write fewer outputs"};
    }
    std::string common;  // the fields that both headers share
    Append(&common, 20, 2);
    Append(&common, kUtf8Names, 2);
    Append(&common, 0, 2);                 // stored
    Append(&common, uint64_t{33} << 16, 4);  // 1980-01-01, the earliest date of the format
    Append(&common, Crc32(reinterpret_cast<const uint8_t*>(body.data()), body.size()), 4);
    Append(&common, body.size(), 4);
    Append(&common, body.size(), 4);
    Append(&common, name.size(), 2);
    Append(&common, 0, 2);
    std::string local;
    Append(&local, kLocalHeader, 4);
    local += common + name;
    Append(&directory, kCentralHeader, 4);
    Append(&directory, 20, 2);
    directory += common;
    Append(&directory, 0, 6);  // comment, disk, internal attributes
    Append(&directory, 0, 4);  // external attributes
    Append(&directory, offset, 4);
    directory += name;
    stream << local << body;
    offset += local.size() + body.size();
  }
  std::string end;
  Append(&end, kEnd, 4);
  Append(&end, 0, 4);
  Append(&end, arrays.size(), 2);
  Append(&end, arrays.size(), 2);
  Append(&end, directory.size(), 4);
  Append(&end, offset, 4);
  Append(&end, 0, 2);
  stream << directory << end;
  stream.flush();
  if (!stream) {
    throw Failure{kUsage, path + " cannot be written", "", "check the path and the free space"};
  }
}

}  // namespace iovt

#endif  // TVM_IOVT_RUNTIME_NPZ_H_
