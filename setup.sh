#!/bin/sh
# Installs what Kaleid needs besides Rust: the Vulkan loader and a driver. Where there is no GPU that is Mesa's lavapipe, which runs
# everything on the CPU. Does nothing when all is there. `sh setup.sh --ci` adds what the tests on two more adapters need, GL through
# EGL and SwiftShader, and Chromium for the page's.
set -eu

have_library() { ldconfig -p 2>/dev/null | grep -q "$1"; }
have_driver() { [ -n "$(ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json 2>/dev/null)" ]; }

ci=no
[ "${1:-}" = "--ci" ] && ci=yes

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: Rust is missing: install it from https://rustup.rs, then run this again"
    exit 2
fi
case "$(uname -s)" in
    Darwin) echo "setup: nothing to do on macOS, Metal is there"; exit 0 ;;
    Linux) ;;
    *) echo "setup: on this system, install your graphics card's driver; nothing else is needed"; exit 0 ;;
esac

missing=""
need() { missing="$missing $1"; }
if command -v apt-get >/dev/null 2>&1; then
    have_library libvulkan.so.1 || need libvulkan1
    have_driver || need mesa-vulkan-drivers
    command -v cc >/dev/null 2>&1 || need gcc
    if [ $ci = yes ]; then
        have_library libEGL.so.1 || need libegl1
        have_library libEGL_mesa.so.0 || need libegl-mesa0
        have_library libGLESv2.so.2 || need libgles2
        [ -e /usr/lib/chromium/libvk_swiftshader.so ] || need chromium-common
        command -v chromium >/dev/null 2>&1 || need chromium
    fi
    install="apt-get install -y --no-install-recommends"
    refresh="apt-get update -qq"
elif command -v dnf >/dev/null 2>&1; then
    have_library libvulkan.so.1 || need vulkan-loader
    have_driver || need mesa-vulkan-drivers
    command -v cc >/dev/null 2>&1 || need gcc
    install="dnf install -y"
    refresh=":"
elif command -v pacman >/dev/null 2>&1; then
    have_library libvulkan.so.1 || need vulkan-icd-loader
    have_driver || need vulkan-swrast
    command -v cc >/dev/null 2>&1 || need gcc
    install="pacman -S --noconfirm"
    refresh="pacman -Sy"
else
    have_library libvulkan.so.1 && have_driver && exit 0
    echo "setup: install a Vulkan loader (libvulkan.so.1) and a Vulkan driver with your package manager"
    exit 2
fi

if [ -z "$missing" ]; then
    echo "setup: everything is there"
    exit 0
fi
root=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "setup: run as root:$missing are missing"; exit 2; }
    root="sudo"
fi
echo "setup: installing$missing"
$root $refresh
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive $install $missing
echo "setup: done; \`cargo run --release -- info\` lists the adapters"
