# shellcheck shell=bash
# What the scripts that build images share. Sourced. With Docker (or podman) running images are built by it, else by buildah.
# shellcheck source=deploy/tools/versions
source "$here/../tools/versions"
cache=${MILLRACE_CACHE:-$HOME/.cache/millrace}
mkdir -p "$cache/images" "$cache/stamps"

if docker info >/dev/null 2>&1; then
  engine=docker
elif podman info >/dev/null 2>&1; then
  engine=podman
else
  command -v buildah >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends buildah >/dev/null; }
  engine=buildah
fi

# is_built NAME STAMP: whether the archive of an image is there and was made of this.
is_built() {
  [ -f "$cache/images/$1.tar" ] && [ "$(cat "$cache/stamps/image-$1" 2>/dev/null)" = "$2" ]
}

# build_image NAME STAMP TAG DOCKERFILE FOLDER: builds the archive of an image of what is in the folder.
build_image() {
  local name=$1 stamp=$2 tag=$3 dockerfile=$4 folder=$5 archive=$cache/images/$1.tar log
  rm -f "$archive"
  case $engine in
    buildah)
      buildah --storage-driver vfs bud --isolation chroot -q --build-arg NAME="$name" -t "$tag" -f "$dockerfile" "$folder" >/dev/null
      buildah --storage-driver vfs push -q "$tag" "docker-archive:$archive:$tag"
      ;;
    *)
      "$engine" build -q --build-arg NAME="$name" -t "$tag" -f "$dockerfile" "$folder" >/dev/null
      # podman tells of every blob, on stderr.
      log=$(mktemp)
      "$engine" save -o "$archive" "$tag" 2>"$log" || { cat "$log" >&2; exit 1; }
      rm "$log"
      ;;
  esac
  echo "$stamp" >"$cache/stamps/image-$name"
  echo "deploy/images: $tag, $(($(stat -c %s "$archive") / 1000)) kB" >&2
}
