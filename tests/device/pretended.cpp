// A device that is none: memory and a generator of its own, every operator by torch's fallback to
// the CPU. Tensors of the CPU among its own raise, as on a GPU, but for those of no dimension.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/library.h>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(KIND, 0);

// ---- Memory

void release(void* data) { std::free(data); }

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::malloc(bytes) : nullptr;
    return {data, data, &release, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
} memory;

// ---- Generator

struct Numbers final : at::CPUGeneratorImpl {
  Numbers() {
    device_ = DEVICE;
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
};

at::Generator& default_generator() {
  static at::Generator made = at::make_generator<Numbers>();
  return made;
}

// ---- What torch asks of a device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, DEVICE);
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return getStream(d); }
  c10::Stream getNewStream(c10::Device d, int) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Numbers>();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    c10::DataPtr grown = memory.allocate(bytes);
    std::memcpy(grown.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.set_data_ptr_noswap(std::move(grown));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

// ---- Operators

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype));
}

at::Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype), format);
}

// The same memory as a tensor of the CPU: for copies alone.
at::Tensor as_cpu(const at::Tensor& t) {
  if (t.is_cpu()) return t;
  auto whole = at::from_blob(
      t.storage().mutable_data(), {static_cast<int64_t>(t.storage().nbytes())}, at::kByte);
  auto typed = at::empty({0}, t.options().device(at::kCPU));
  typed.set_(whole.storage(), t.storage_offset(), t.sizes(), t.strides());
  if (t.is_conj()) typed = typed.conj();
  return t.is_neg() ? typed._neg_view() : typed;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  as_cpu(to).copy_(as_cpu(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

void check_device(const c10::OperatorHandle& op, const at::Tensor& t, bool index) {
  TORCH_CHECK(
      !t.defined() || !t.is_cpu() || t.dim() == 0 || index, op.schema().name(),
      ": Expected all tensors to be on the same device, but found at least two devices, ", DEVICE,
      " and cpu, a tensor of sizes ", t.sizes());
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const auto begin = stack->size() - arguments.size();
  at::Generator used, stand_in;
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = (*stack)[begin + i];
    const bool index = arguments[i].name() == "indices";  // may be the CPU's on a GPU as well
    if (value.isTensor()) {
      check_device(op, value.toTensor(), false);
    } else if (value.isTensorList()) {
      for (const at::Tensor& t : value.toTensorVector()) check_device(op, t, index);
    } else if (arguments[i].name() == "generator") {
      used = value.isGenerator() ? value.toGenerator() : default_generator();
      TORCH_CHECK(used.device() == DEVICE, op.schema().name(), ": a generator of ", used.device());
      stand_in = at::detail::createCPUGenerator();
      stand_in.set_state(used.get_state());
      value = stand_in;
    }
  }
  // Batch norm writes its running statistics, which its schema does not say.
  std::vector<std::pair<at::Tensor, at::Tensor>> written;
  for (size_t i = 3; i < 5 && op.schema().name() == "aten::native_batch_norm"; ++i) {
    c10::IValue& value = (*stack)[begin + i];
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    written.emplace_back(value.toTensor(), value.toTensor().cpu());
    value = written.back().second;
  }
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
  for (auto& [there, here] : written) there.copy_(here);
  if (used.defined()) used.set_state(stand_in.get_state());
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("resize_", [](const at::Tensor& t, c10::SymIntArrayRef size,
                       std::optional<c10::MemoryFormat> format) -> const at::Tensor& {
    return at::native::resize_(t, C10_AS_INTARRAYREF_SLOW(size), format);
  });
  m.impl("set_.source_Storage_storage_offset", [](at::Tensor& t, c10::Storage source,
      int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) -> at::Tensor& {
    return at::native::set_storage_cpu_(t, source, offset, size, stride);
  });
  m.impl("set_.source_Storage", [](at::Tensor& t, c10::Storage source) -> at::Tensor& {
    return at::native::set_(t, std::move(source));
  });
  // Composite ones that would look for kernels of this device's own.
  for (const char* name : {"convolution", "convolution_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

TORCH_LIBRARY(pretended, m) {
  c10::SetAllocator(KIND, &memory);
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  m.def("default_generator() -> Generator?", [] { return default_generator(); });
}

}  // namespace
