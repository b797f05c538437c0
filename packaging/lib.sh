# Sourced by build-deb, build-rpm and build-tarball: tools, binary, third-party licences. Changes to the project's folder.
#
# TARGET chooses another target than x86_64-unknown-linux-gnu: aarch64-unknown-linux-gnu, or x86_64- and
# aarch64-unknown-linux-musl. Those are prepared and untried.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

triple=${TARGET:-x86_64-unknown-linux-gnu}
# The oldest C library that the binary runs with: that of CentOS 7.
glibc=2.17
version=$(sed -n '0,/^version = "\(.*\)"/s//\1/p' Cargo.toml)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
# What the build left: the binary, and what the packages contain besides.
built=$target/$triple/release
# Finished packages.
packages=$target/packages

# Times in packages are those of the commit, so that two builds of it are the same.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date -r Cargo.lock +%s)}

say() { printf '== %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# need_cargo TOOL VERSION
need_cargo() {
    cargo "${1#cargo-}" --version >/dev/null 2>&1 && return
    say "installing $1 $2"
    cargo install --quiet --locked "$1@$2"
}

# cargo-zigbuild and zig: those on PATH, else from PyPI in an environment of their own.
need_zig() {
    local tools=${XDG_CACHE_HOME:-$HOME/.cache}/wecom-dirsync/zigbuild-0.24.0
    if cargo zigbuild --version >/dev/null 2>&1 &&
        { command -v zig || python3 -m ziglang version; } >/dev/null 2>&1; then
        return
    fi
    export PATH=$tools/bin:$PATH
    [ -e "$tools/complete" ] && return
    say "installing cargo-zigbuild and zig"
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        command -v apt-get >/dev/null || die "python3 with venv is missing: install it"
        apt-get update -q >&2 && apt-get install -qy --no-install-recommends python3-venv >&2
    fi
    python3 -m venv --clear "$tools"
    "$tools/bin/pip" install --quiet cargo-zigbuild==0.24.0 ziglang==0.17.0
    touch "$tools/complete"
}

# Builds the binary and the third-party licences in $built.
build() {
    local zig_target=$triple
    case $triple in *-gnu) zig_target=$triple.$glibc ;; esac
    # A toolchain of a Linux distribution has no rustup, and only its own target.
    ! command -v rustup >/dev/null || rustup target list --installed | grep -qx "$triple" || rustup target add "$triple" ||
        die "the standard library for $triple is missing"
    need_zig
    say "building for $zig_target"
    # Where it is built must not show in the binary, so that every machine builds the same one.
    cargo fetch --quiet --locked
    local from rust_flags=() c_flags=() variable=CFLAGS_${triple//-/_}
    for from in "$PWD" "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
        rust_flags+=("--remap-path-prefix=$from=/build")
        c_flags+=("-ffile-prefix-map=$from=/build")
    done
    RUSTFLAGS="${rust_flags[*]}" env "$variable=${c_flags[*]}" \
        cargo zigbuild --locked --release --target "$zig_target" >&2
    case $triple in *-gnu) packaging/check-glibc "$built/wecom-dirsync" "$glibc" >&2 ;; esac
    packaging/third-party-licences "$triple" >"$built/third-party-licences"
    mkdir -p "$packages"
}
