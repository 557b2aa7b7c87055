//! kubelite-kubelet
